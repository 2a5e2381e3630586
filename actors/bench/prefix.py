"""The role's prefix: first tokens with a known beginning beside those with a new one, and are they equal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from actors.bench import rig, streams
from actors.bench.decode import seated
from actors.bench.shapes import prompt
from actors.bench.sheet import Sheet, at_least, at_most
from actors.bench.spread import Spread, over

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from actors.bench.plan import Plan
    from actors.bench.shapes import Made
    from actors.lm.decoder import Decoder

PARTS = ("persona", "sessions")
ASKED = 16
ANSWERED = 8
#: what a session answers in its first turn
TOLD = 48


def run(plan: Plan) -> list[Sheet]:
    """Ask the same on a decoder that has read its beginning and on one that never did."""
    made = plan.made(1)
    sheets = []
    if plan.does("persona"):
        plan.tell(f"prefix: {plan.repeats} personas of {plan.shape.persona} tokens")
        sheets.append(_personas(plan, made))
    if plan.does("sessions"):
        for deterministic in (True, False):
            plan.tell(f"prefix: {plan.repeats} sessions, deterministic: {deterministic}")
            sheets.append(_sessions(plan, made, deterministic=deterministic))
    return sheets


@dataclass(slots=True)
class Pair:
    """A decoder that `knows` and one that `never` did, and what the same prompts took on each."""

    knows: Decoder
    never: Decoder
    warm: dict[str, list[float]] = field(default_factory=dict)
    cold: dict[str, list[float]] = field(default_factory=dict)
    differing: int = 0
    compared: int = 0
    told: int = 0

    def ask(self, what: str, tokens: Sequence[int], *, timed: bool) -> None:
        """Ask role0 the same on both; `tokens` end with an `_end`."""
        again, seen = _asked(self.knows, tokens)
        new, expected = _asked(self.never, tokens)
        self.differing += sum(int((a != b).sum()) for a, b in zip(seen, expected, strict=True))
        self.differing += again.tokens != new.tokens
        self.compared += sum(row.numel() for row in seen)
        self.told += again.logprobs != new.logprobs
        if timed:
            self.warm.setdefault(what, []).append(again.first_s)
            self.cold.setdefault(what, []).append(new.first_s)

    def stop(self) -> None:
        self.knows.stop()
        self.never.stop()

    def fill(self, sheet: Sheet, *, least: float | None, equal: bool) -> Sheet:
        """Put what was found into a sheet; `least` is each ratio's goal, `equal` whether bits must be."""
        for what, values in self.cold.items():
            sheet.add(f"{what}, cold", Spread.of(values), "ms")
            sheet.add(f"{what}, known", Spread.of(self.warm[what]), "ms")
            goal = None if least is None else at_least(least)
            sheet.add(f"{what}: cold ÷ known", over(values, self.warm[what]), "x", goal=goal)
        none = at_most(0) if equal else None
        sheet.count(
            "logits that differ from cold", self.differing, goal=none, note=f"of {self.compared}, bit for bit"
        )
        sheet.count("answers whose logprobs differ", self.told, goal=none)
        for what, number in rig.counts(self.knows).items():
            sheet.count(what, number, note="of the decoder that knows")
        return sheet


def _personas(plan: Plan, made: Made) -> Sheet:
    """Time a question behind a persona that another question came behind before."""
    shape = plan.shape
    pair = Pair(seated(plan, made, 1), seated(plan, made, 1))
    sheet = Sheet(
        f"prefix: first token with a persona of {shape.persona} tokens + {ASKED} (shape {shape.name})"
    )
    try:
        for at in range(plan.repeats + 1):  # the first round warms up
            persona = prompt(shape, shape.persona, 800 + at)
            _asked(pair.knows, [*persona, *prompt(shape, ASKED, 830 + at)])
            pair.ask("persona", [*persona, *prompt(shape, ASKED - 1, 860 + at), _end(at)], timed=at > 0)
        return pair.fill(sheet, least=4, equal=True)
    finally:
        pair.stop()


def _sessions(plan: Plan, made: Made, *, deterministic: bool) -> Sheet:
    """Time a second turn, which begins with prompt and answer of the first, with and without a persona."""
    shape, mode = plan.shape, "deterministic" if deterministic else "not deterministic"
    knows, never = (seated(plan, made, 1, deterministic=deterministic) for _ in range(2))
    pair = Pair(knows, never)
    sheet = Sheet(
        f"prefix: first token of a second turn of {ASKED} tokens, {mode} (shape {shape.name}); the first "
        f"asked {ASKED} and told {TOLD}"
    )
    try:
        for at in range(plan.repeats + 1):
            for what, persona in (("with persona", shape.persona), ("without", 0)):
                first = prompt(shape, persona + ASKED, 1000 + 2 * at + (persona > 0))
                opened, _ = _asked(knows, first, TOLD)
                asked = [*prompt(shape, ASKED - 1, 890 + at), _end(at)]
                pair.ask(f"second turn, {what}", [*first, *opened.tokens, *asked], timed=at > 0)
        return pair.fill(sheet, least=None, equal=deterministic)
    finally:
        pair.stop()


def _end(at: int) -> int:
    """Return a token that no prompt has."""
    return 150 + at % 50


def _asked(
    decoder: Decoder, tokens: Sequence[int], answer: int = ANSWERED
) -> tuple[streams.Answer, list[Tensor]]:
    """Ask role0 alone; return the answer and all its logits, if the prompt ends with an `_end`."""
    with rig.tapped(decoder, {tokens[-1]: len(tokens)}) as kept:
        told = streams.run(streams.ask(decoder, "role0", tokens, answer, logprobs=20))
    return told, kept[tokens[-1]]
