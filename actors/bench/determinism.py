"""Determinism: the same logits whatever the batch around, to the bit; and what that costs."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from actors.bench import rig, streams
from actors.bench.decode import answers, block, fresh, seated, seats
from actors.bench.plan import sizes
from actors.bench.shapes import prompt
from actors.bench.sheet import Sheet, at_most
from actors.bench.spread import Spread, interleaved, over, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from actors.bench.plan import Plan
    from actors.bench.shapes import Made, Shape
    from actors.lm.decoder import Decoder

PARTS = ("bits", "cost")
ROLES = 8
#: the first of the tokens with which the compared prompts end
END = 150
MODES = {"deterministic": True, "not deterministic": False}


def run(plan: Plan) -> list[Sheet]:
    """Compare bits, then time steps and whole answers with and without."""
    made = plan.made(ROLES + 2)
    sheets = []
    if plan.does("bits"):
        sheets.append(_bits(plan, made))
    if plan.does("cost"):
        sheets += _cost(plan, made)
    return sheets


def _bits(plan: Plan, made: Made) -> Sheet:
    """Compare each request's logits alone with those among others that come, go and are cut off."""
    groups = sizes(plan, (3, 8, 16), (3, 5))
    sheet = Sheet(
        f"determinism: alone and in staggered batches, with churn and cancellations (shape {made.shape.name})"
    )
    for mode, deterministic in MODES.items():
        plan.tell(f"bits, {mode}")
        trial = Trial(plan, made, max(groups), deterministic=deterministic)
        try:
            alone = [trial.alone(at) for at in range(max(groups))]
            for size in groups:
                logits, words = compare(alone[:size], streams.run(trial.together(size)))
                goal = at_most(0) if deterministic else None
                number = sum(row.numel() for rows in alone[:size] for row in rows)
                sheet.count(
                    f"{mode}, {size} together: logits that differ", logits, goal=goal, note=f"of {number}"
                )
                sheet.count(
                    f"{mode}, {size} together: answers that differ", words, goal=goal, note=f"of {size}"
                )
        finally:
            trial.decoder.stop()
    return sheet


class Trial:
    """A decoder and its requests: each prompt has its own length and end, request i is of role i mod 8."""

    def __init__(self, plan: Plan, made: Made, number: int, *, deterministic: bool) -> None:
        shape = made.shape
        self.decoder: Decoder = seated(plan, made, ROLES, spare=2, deterministic=deterministic)
        setting = plan.setting(ROLES, made.shape)
        self._images: dict[str, NDArray[np.uint8]] = {
            f"other{at}": rig.image_of(path, made.base, setting)
            for at, path in enumerate(made.adapters[ROLES:])
        }
        self._prompts = [[*prompt(shape, shape.prompt + 5 * at, 900 + at), END + at] for at in range(number)]
        self._passers = [prompt(shape, shape.prompt, 950 + at) for at in range(number)]
        self._answer = shape.answer

    def alone(self, at: int) -> list[Tensor]:
        with self._tapped(1, at) as kept:
            streams.run(self._ask(at))
        return kept[END + at]

    async def together(self, size: int) -> list[list[Tensor]]:
        """Ask one after the other, each time give up a passer-by at its second token, and churn the slots."""
        over = asyncio.Event()
        churn = asyncio.create_task(self._churn(over))
        with self._tapped(size) as kept:
            running = []
            for at in range(size):
                running.append(asyncio.create_task(self._ask(at)))
                await self._pass_by(at)
            await asyncio.gather(*running)
        over.set()
        await churn
        return [kept[END + at] for at in range(size)]

    def _tapped(self, size: int, first: int = 0) -> AbstractContextManager[rig.Logits]:
        ends = {END + at: len(self._prompts[at]) for at in range(first, first + size)}
        return rig.tapped(self.decoder, ends)

    async def _ask(self, at: int) -> streams.Answer:
        return await streams.ask(self.decoder, f"role{at % ROLES}", self._prompts[at], self._answer)

    async def _pass_by(self, at: int) -> None:
        """Ask for another and give up at its second token."""
        heard = asyncio.Event()

        def hear(answer: streams.Answer) -> None:
            if len(answer.tokens) > 1:
                heard.set()

        item = f"role{(at + 3) % ROLES}"
        task = asyncio.create_task(
            streams.ask(self.decoder, item, self._passers[at], self._answer, heard=hear)
        )
        waiting = asyncio.create_task(heard.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        waiting.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)

    async def _churn(self, over: asyncio.Event) -> None:
        while not over.is_set():
            for item, image in self._images.items():
                await asyncio.to_thread(self.decoder.attach, item, image)
                await asyncio.to_thread(self.decoder.detach, item)


def compare(alone: Sequence[Sequence[Tensor]], together: Sequence[Sequence[Tensor]]) -> tuple[int, int]:
    """Return how many logits differ, and in how many answers a token does; a missing one differs whole."""
    logits = words = 0
    for one, other in zip(alone, together, strict=True):
        for at, row in enumerate(one):
            logits += row.numel() if at >= len(other) else int((row != other[at]).sum())
        words += [int(row.argmax()) for row in one] != [int(row.argmax()) for row in other]
    return logits, words


def _cost(plan: Plan, made: Made) -> list[Sheet]:
    """Time decode steps and whole answers with and without it, side by side."""
    batches, shape = sizes(plan, (1, 8, 16), (1, 4)), made.shape
    asked = [prompt(shape, shape.prompt, 980 + at) for at in range(max(batches))]
    steps: dict[str, Callable[[], float]] = {}
    whole: dict[str, Callable[[], float]] = {}
    decoders = []
    for mode, deterministic in MODES.items():
        setting = plan.setting(ROLES, deterministic=deterministic)
        model = rig.load_model(made.base, setting)
        for slot, path in enumerate(made.adapters[:ROLES], 1):
            rig.fill(model, slot, rig.image_of(path, made.base, setting))
        batch = rig.Batch(model, asked)
        for size in batches:
            slots = seats(size, min(ROLES, size))
            steps[f"{mode} B={size}"] = partial(block, batch, slots, shape.steps)
        decoders.append(seated(plan, made, ROLES, deterministic=deterministic))
        whole[mode] = _whole(decoders[-1], shape, max(batches))
    plan.tell(f"cost: {len(steps) + len(whole)} cases, {plan.repeats} rounds")
    try:
        found = interleaved(steps, plan.repeats)
        ends = interleaved(whole, plan.repeats)
    finally:
        for decoder in decoders:
            decoder.stop()
    sheet = Sheet(f"determinism: what it costs, a role for each sequence up to {ROLES} (shape {shape.name})")
    for what, values in found.items():
        sheet.add(f"step, {what}", Spread.of(values), "ms")
    for size in batches:
        ratio = over(found[f"deterministic B={size}"], found[f"not deterministic B={size}"])
        sheet.add(f"step, B={size}: with ÷ without", ratio, "x", goal=at_most(1.15) if size > 1 else None)
    for what, values in ends.items():
        sheet.add(f"end to end, {what}", Spread.of(values), "s")
    ratio = over(ends["deterministic"], ends["not deterministic"])
    note = f"{len(asked)} requests of {shape.prompt}+{shape.answer} tokens at once"
    sheet.add("end to end: with ÷ without", ratio, "x", note=note)
    return [sheet]


def _whole(decoder: Decoder, shape: Shape, number: int) -> Callable[[], float]:
    """Return a case that asks `number` new prompts at once."""
    new = fresh(shape, number)

    def case() -> float:
        asked = new()
        return seconds(lambda: answers(decoder, asked, shape.answer, ROLES))

    return case
