"""A request on its way through a decoder, and the answers it asks for. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from placement.errors import TierceError, WorldError

if TYPE_CHECKING:
    import asyncio

    from actors.lm.request import Delta, Request
    from actors.lm.sample import Drawing
    from actors.lm.text import Text


@dataclass(slots=True, eq=False)
class Caller:
    """A request in a decoder: who waits for it, what it holds, and its `answers`, `Sampling.n` of them.

    Only the decode thread touches it, apart from `cancelled` and `queue`, which are the caller's too.
    """

    request: Request
    #: 0 is the base
    slot: int
    #: digest of what is in the slot, "" for the base: whose keys and values may be shared
    content: str
    began_s: float
    #: the loop of the caller, and where it waits for its events
    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[Delta | TierceError]
    answers: list[Sequence] = field(default_factory=list)
    #: set by the caller when nobody waits any more; read before each step and between layers of a prompt
    cancelled: bool = False
    #: answers that have not let go of their place yet
    held: int = 0

    @property
    def item(self) -> str:
        return self.request.item or ""

    def overdue(self, now_s: float) -> WorldError | None:
        """Return the error of a request that has outlived its deadline."""
        limit = self.request.deadline_s
        if limit is None or now_s - self.began_s <= limit:
            return None
        count = sum(len(answer.out) for answer in self.answers)
        told = f"request {self.request.id} ended by its deadline of {limit:g} s after {count} tokens"
        return WorldError("LM003", told, "give it more time or fewer tokens")


@dataclass(slots=True, eq=False)
class Sequence:
    """One answer of a request. Only the decode thread touches it."""

    caller: Caller
    #: which of the answers it is
    index: int
    text: Text
    drawing: Drawing
    #: since when it is the next of its item to enter, None before
    head_s: float | None = None
    #: first of its KV rows, None while it waits for them
    row: int | None = None
    #: one that entered before and reads what this one begins with, and how many tokens of that are shared
    leader: Sequence | None = None
    shared: int = 0
    #: tokens whose keys and values are written
    written: int = 0
    out: list[int] = field(default_factory=list)
    #: it has ended; a forward that is under way may still write its rows
    over: bool = False

    @property
    def prompt(self) -> list[int]:
        return self.caller.request.tokens

    @property
    def rows(self) -> int:
        """Return how many KV rows it reserves: prompt and answer, so that it never has to give way."""
        return len(self.caller.request.tokens) + self.caller.request.sampling.max_tokens

    @property
    def unread(self) -> int:
        """Return how many tokens of its prompt are still to be read."""
        return max(0, len(self.caller.request.tokens) - self.written)
