"""One request on its way through a decoder, from acceptance to its one terminal event."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from actors.lm.model import Part
from placement.errors import TierceError, WorldError

if TYPE_CHECKING:
    import asyncio

    from actors.lm.request import Delta, Request
    from actors.lm.sample import Drawing
    from actors.lm.text import Text


@dataclass(slots=True, eq=False)
class Sequence:
    """A request with its place in the engine.

    Only the decode thread touches it, apart from `cancelled` and `queue`, which are its caller's too.
    """

    request: Request
    #: 0 is the base
    slot: int
    text: Text
    drawing: Drawing
    began_s: float
    #: the loop of the caller, and where it waits for its events
    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[Delta | TierceError]
    #: set by the caller when nobody waits any more; read before each step
    cancelled: bool = False
    #: first of its KV rows, None while it waits for them
    row: int | None = None
    #: tokens whose keys and values are written
    written: int = 0
    out: list[int] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Return how many KV rows it reserves: prompt and answer, so that it never has to give way."""
        return len(self.request.tokens) + self.request.sampling.max_tokens

    @property
    def decoding(self) -> bool:
        return bool(self.out)

    def part(self, budget: int) -> Part:
        """Return what comes next: the last token, or up to `budget` more of the prompt."""
        row = 0 if self.row is None else self.row
        if self.out:
            return Part(self.slot, self.out[-1:], self.written, row, wanted=True)
        prompt = self.request.tokens
        tokens = prompt[self.written : self.written + budget]
        return Part(self.slot, tokens, self.written, row, wanted=self.written + len(tokens) == len(prompt))

    def overdue(self, now_s: float) -> WorldError | None:
        """Return the error of a request that has outlived its deadline."""
        limit = self.request.deadline_s
        if limit is None or now_s - self.began_s <= limit:
            return None
        told = f"request {self.request.id} ended by its deadline of {limit:g} s after {len(self.out)} tokens"
        return WorldError("LM003", told, "give it more time or fewer tokens")
