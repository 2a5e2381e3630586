"""Answers of unequal length beside `generate`, whose padded batch goes on until the longest has ended."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

from actors.bench import baselines, streams
from actors.bench.shapes import prompt
from actors.bench.sheet import Sheet, at_least
from actors.bench.spread import Spread, interleaved, over, seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.bench.plan import Plan
    from actors.bench.shapes import Made
    from actors.lm.decoder import Decoder

#: lengths of prompts and of answers as parts of the shape's; their mean is 1, and each meets each
LENGTHS = (0.25, 0.5, 1.0, 2.25)


def run(plan: Plan, made: Made, decoder: Decoder) -> Sheet:
    """Time the base's answers to a batch of all pairs of lengths; `decoder` is stopped at the end."""
    shape = made.shape
    lengths = [
        (max(1, round(shape.prompt * asked)), max(1, round(shape.answer * answered)))
        for asked, answered in itertools.product(LENGTHS, LENGTHS)
    ]
    longest = max(answered for _, answered in lengths)
    dtype = baselines.peers_dtype(plan, made, len(lengths))
    net = baselines.base(made.base, dtype)

    def ours(prompts: list[list[int]]) -> None:
        async def all_at_once() -> None:
            each = zip(prompts, lengths, strict=True)
            await asyncio.gather(
                *(streams.ask(decoder, None, tokens, answered) for tokens, (_, answered) in each)
            )

        streams.run(all_at_once())

    def case(act: Callable[[list[list[int]]], object]) -> Callable[[], float]:
        rounds = itertools.count(1)

        def ask() -> float:
            first = next(rounds) * 1000
            prompts = [prompt(shape, asked, first + at) for at, (asked, _) in enumerate(lengths)]
            return seconds(lambda: act(prompts))

        return ask

    theirs = f"generate, {dtype}"
    cases = {"ours": case(ours), theirs: case(lambda prompts: baselines.generate(net, prompts, longest))}
    plan.tell(f"mixed lengths: {len(cases)} cases, {plan.repeats} rounds")
    try:
        found = interleaved(cases, plan.repeats)
    finally:
        decoder.stop()
    tokens = sum(answered for _, answered in lengths)
    sheet = Sheet(
        f"decode: base alone, B={len(lengths)}, prompts of {lengths[0][0]} to {lengths[-1][0]} tokens, "
        f"answers of {lengths[0][1]} to {longest}, tokens asked for per second"
    )
    for what, values in found.items():
        sheet.add(what, Spread.of(tokens / took_s for took_s in values), "tok/s")
    sheet.add(f"ours ÷ {theirs}", over(found[theirs], found["ours"]), "x", goal=at_least(2))
    return sheet
