"""What goes into a decoder and what comes out of it. No torch: a Role builds and reads these."""

from __future__ import annotations

from dataclasses import dataclass, field

from placement.errors import UserError

MAX_SEED = 2**63 - 1
MAX_STOPS = 16


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen: temperature, top_k, then top_p, as transformers does. Temperature 0 is greedy.

    `top_k` 0 and `top_p` 1 switch them off; the same `seed` gives the same draw, None draws anew each time;
    the answer ends before the first of the `stop` texts. Raises UserError LM006 for values out of range or of
    another type.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int = 200
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks = (
            (_number(self.temperature) and 0 <= self.temperature <= 100, "temperature", "0 to 100"),
            (_number(self.top_p) and 0 < self.top_p <= 1, "top_p", "above 0, up to 1"),
            (type(self.top_k) is int and self.top_k >= 0, "top_k", "an integer, 0 or more"),
            (
                self.seed is None or (type(self.seed) is int and 0 <= self.seed <= MAX_SEED),
                "seed",
                f"an integer, 0 to {MAX_SEED}",
            ),
            (type(self.max_tokens) is int and self.max_tokens >= 1, "max_tokens", "an integer, 1 or more"),
            (
                _texts(self.stop) and len(self.stop) <= MAX_STOPS,
                "stop",
                f"a tuple of up to {MAX_STOPS} texts, none empty",
            ),
        )
        for good, name, allowed in checks:
            if not good:
                raise UserError("LM006", f"{name} is {getattr(self, name)!r}; allowed: {allowed}")


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt for one item.

    `deadline_s` counts from the moment the decoder takes the request; None is no deadline. `item` None is the
    base itself: for tests and measurements, never a substitute for an item. Raises UserError LM006 for a
    deadline that is no number.
    """

    id: str
    item: str | None
    tokens: list[int]
    sampling: Sampling = field(default_factory=Sampling)
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if self.deadline_s is not None and not _number(self.deadline_s):
            raise UserError("LM006", f"deadline_s is {self.deadline_s!r}; allowed: seconds, or None")


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer: its new tokens and their text, which is whole characters and may be empty.

    `finish` is None until the last piece: "stop" (end token or stop text) or "length".
    """

    text: str
    tokens: tuple[int, ...]
    finish: str | None = None


@dataclass(frozen=True, slots=True)
class Attached:
    """What attaching did: the slot, the bytes copied into it (0 if it was there), the seconds in all."""

    slot: int
    nbytes: int
    took_s: float


@dataclass(frozen=True, slots=True)
class SlotUse:
    """One attached item: requests in flight, seconds since the last ended, counts over the engine's life."""

    leases: int
    idle_s: float
    hits: int
    activations: int


@dataclass(frozen=True, slots=True)
class HeldUse:
    """One held shard: its bytes, searches in all, seconds since the last, and how many are under way."""

    nbytes: int
    hits: int
    idle_s: float
    leases: int


@dataclass(frozen=True, slots=True)
class Stats:
    """A decoder at a moment. `kv_rows` are tokens of room, `step_s` is the time of the last step."""

    running: int
    waiting: int
    steps: int
    tokens: int
    kv_rows_used: int
    kv_rows: int
    slots_used: int
    slots: int
    step_s: float


def _number(value: object) -> bool:
    return type(value) in {int, float}


def _texts(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(text, str) and text for text in value)
