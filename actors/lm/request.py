"""What goes into a decoder and what comes out of it. No torch: a Role builds and reads these."""

from __future__ import annotations

from dataclasses import dataclass, field

from placement.errors import UserError

MAX_SEED = 2**63 - 1
MAX_STOPS = 16
MAX_STOP_TOKENS = 64
#: Most alternatives of a token that an answer may list, as the OpenAI API has it.
MAX_LOGPROBS = 20
#: Most answers to one prompt.
MAX_SAMPLES = 64


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen, and when an answer ends.

    Logits pass through repetition_penalty, temperature, top_k, top_p, min_p, in this order, which is that of
    transformers. The penalty looks at prompt and answer; 1 switches it off, as 0 does top_k and min_p, and 1
    top_p. Temperature 0 is greedy. The same `seed` gives the same draw, None draws anew each time; of `n`
    answers to one prompt, answer i draws by (seed, i), so answer 0 is that of n = 1.

    `logprobs` asks for the log-probability of each token and of so many of the likeliest, before any of the
    above changed them. The answer ends before the first of the `stop` texts, with one of `stop_tokens` (which
    gives no text), or with the model's end token unless `ignore_eos`. Raises UserError LM006 for values out
    of range or of another type.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int = 200
    stop: tuple[str, ...] = ()
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop_tokens: tuple[int, ...] = ()
    logprobs: int | None = None
    n: int = 1
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        for good, name, allowed in (*self._draws(), *self._ends()):
            if not good:
                raise UserError("LM006", f"{name} is {getattr(self, name)!r}; allowed: {allowed}")

    def ends(self, eos: frozenset[int]) -> frozenset[int]:
        """Return the tokens that end an answer of a model with the end tokens `eos`."""
        return frozenset(self.stop_tokens) | (frozenset() if self.ignore_eos else eos)

    def _draws(self) -> tuple[tuple[bool, str, str], ...]:
        """Return of each setting of the draw whether it is good, its name, and what is allowed."""
        penalty, seed = self.repetition_penalty, self.seed
        return (
            (_number(self.temperature) and 0 <= self.temperature <= 100, "temperature", "0 to 100"),
            (_number(self.top_p) and 0 < self.top_p <= 1, "top_p", "above 0, up to 1"),
            (_whole(self.top_k, 0), "top_k", "an integer, 0 or more"),
            (_number(self.min_p) and 0 <= self.min_p <= 1, "min_p", "0 to 1"),
            (_number(penalty) and 0.01 <= penalty <= 100, "repetition_penalty", "0.01 to 100"),
            (seed is None or _whole(seed, 0, MAX_SEED), "seed", f"an integer, 0 to {MAX_SEED}"),
            (
                self.logprobs is None or _whole(self.logprobs, 0, MAX_LOGPROBS),
                "logprobs",
                f"an integer, 0 to {MAX_LOGPROBS}, or None",
            ),
            (_whole(self.n, 1, MAX_SAMPLES), "n", f"an integer, 1 to {MAX_SAMPLES}"),
        )

    def _ends(self) -> tuple[tuple[bool, str, str], ...]:
        """Return the same of each setting that ends an answer."""
        return (
            (_whole(self.max_tokens, 1), "max_tokens", "an integer, 1 or more"),
            (
                _texts(self.stop) and len(self.stop) <= MAX_STOPS,
                "stop",
                f"a tuple of up to {MAX_STOPS} texts, none empty",
            ),
            (
                _token_ids(self.stop_tokens) and len(self.stop_tokens) <= MAX_STOP_TOKENS,
                "stop_tokens",
                f"a tuple of up to {MAX_STOP_TOKENS} token ids",
            ),
            (type(self.ignore_eos) is bool, "ignore_eos", "true or false"),
        )


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
class TokenLogprob:
    """A token's natural log-probability, and (token, log-probability) of the likeliest, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer: its new tokens and their text, which is whole characters and may be empty.

    `finish` is None until the last piece: "stop" (end token, stop token or stop text) or "length". `index`
    tells which of the `n` answers it belongs to. `logprobs` has one entry per token if they were asked for.
    """

    text: str
    tokens: tuple[int, ...]
    finish: str | None = None
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Attached:
    """What attaching did: the slot, the bytes copied into it (0 if it was there), the seconds in all.

    `copy_s` of them went into the copy. `kind` is "slot" or "shadow".
    """

    slot: int
    nbytes: int
    took_s: float
    copy_s: float = 0.0
    kind: str = "slot"


@dataclass(frozen=True, slots=True)
class SlotUse:
    """One attached item: requests in flight, seconds since the last ended, counts over the engine's life.

    `nbytes` is what it takes beside its slot: the tensors of a shadow, measured after its load. `earlier` of
    its `hits` are from before it came the last time.
    """

    leases: int
    idle_s: float
    hits: int
    activations: int
    nbytes: int = 0
    earlier: int = 0


@dataclass(frozen=True, slots=True)
class HeldUse:
    """One held shard: its bytes, searches in all, seconds since the last, and how many are under way."""

    nbytes: int
    hits: int
    idle_s: float
    leases: int


def _number(value: object) -> bool:
    return type(value) in {int, float}


def _whole(value: object, least: int, most: int | None = None) -> bool:
    return type(value) is int and value >= least and (most is None or value <= most)


def _texts(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(text, str) and text for text in value)


def _token_ids(value: object) -> bool:
    return isinstance(value, tuple) and all(_whole(token, 0) for token in value)
