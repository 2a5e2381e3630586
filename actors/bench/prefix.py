"""The role's prefix: first tokens with a persona that is known beside one that is new, and are they equal."""

from __future__ import annotations

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
    from actors.lm.decoder import Decoder

PARTS = ("prefix",)
ASKED = 16
ANSWERED = 8


def run(plan: Plan) -> list[Sheet]:
    """Ask the same on a decoder that has read the persona and on one that never did."""
    shape = plan.shape
    made = plan.made(1)
    knows, never = seated(plan, made, 1), seated(plan, made, 1)
    cold: dict[str, list[float]] = {"persona": [], "second turn": []}
    warm: dict[str, list[float]] = {"persona": [], "second turn": []}
    differing = compared = told = 0
    plan.tell(f"prefix: {plan.repeats} personas of {shape.persona} tokens")
    try:
        for at in range(plan.repeats + 1):  # the first round warms up
            persona = prompt(shape, shape.persona, 800 + at)
            first = [*persona, *prompt(shape, ASKED, 830 + at)]
            second = [*persona, *prompt(shape, ASKED - 1, 860 + at), _end(at)]
            opened, _ = _asked(knows, first)
            again, seen = _asked(knows, second)
            new, expected = _asked(never, second)
            differing += sum(int((a != b).sum()) for a, b in zip(seen, expected, strict=True))
            differing += again.tokens != new.tokens
            compared += sum(row.numel() for row in seen)
            told += again.logprobs != new.logprobs
            turn = [*first, *opened.tokens, *prompt(shape, ASKED, 890 + at)]
            later, _ = _asked(knows, turn)
            anew, _ = _asked(never, turn)
            if at:
                warm["persona"].append(again.first_s)
                cold["persona"].append(new.first_s)
                warm["second turn"].append(later.first_s)
                cold["second turn"].append(anew.first_s)
        counted = rig.counts(knows)
    finally:
        knows.stop()
        never.stop()
    sheet = Sheet(
        f"prefix: first token with a persona of {shape.persona} tokens + {ASKED} (shape {shape.name})"
    )
    for what, values in cold.items():
        sheet.add(f"{what}, cold", Spread.of(values), "ms")
        sheet.add(f"{what}, known", Spread.of(warm[what]), "ms")
        goal = at_least(4) if what == "persona" else None
        sheet.add(f"{what}: cold ÷ known", over(values, warm[what]), "x", goal=goal)
    sheet.count(
        "logits that differ from cold", differing, goal=at_most(0), note=f"of {compared}, bit for bit"
    )
    sheet.count("answers whose logprobs differ", told, goal=at_most(0))
    for what, number in counted.items():
        sheet.count(what, number, note="of the decoder that knows")
    return [sheet]


def _end(at: int) -> int:
    """Return a token that no prompt has."""
    return 150 + at % 50


def _asked(decoder: Decoder, tokens: Sequence[int]) -> tuple[streams.Answer, list[Tensor]]:
    """Ask role0 alone; return the answer and all its logits, if the prompt ends with an `_end`."""
    with rig.tapped(decoder, {tokens[-1]: len(tokens)}) as kept:
        answer = streams.run(streams.ask(decoder, "role0", tokens, ANSWERED, logprobs=20))
    return answer, kept[tokens[-1]]
