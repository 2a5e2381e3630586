"""What others feel while adapters come up, a long prompt enters, or a thousand roles take turns."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from functools import partial
from itertools import count, cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psutil

from actors.bench import cold, rig, streams
from actors.bench.decode import seated
from actors.bench.plan import sizes
from actors.bench.shapes import S, prompt, write_adapter
from actors.bench.sheet import Goal, Sheet, at_most
from actors.bench.spread import Spread, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from actors.bench.plan import Plan
    from actors.bench.shapes import Shape
    from actors.lm.decoder import Decoder

PARTS = ("activations", "prompt", "crowd", "cold")
ROLES = 8
EVERY_S = 0.1
#: what the small adapters of the crowd touch
FEW = ("q_proj", "v_proj")


def run(plan: Plan) -> list[Sheet]:
    """Disturb answering roles in four ways; the last lets a cold role ask."""
    sheets = []
    if plan.does("activations"):
        sheets.append(_activations(plan))
    if plan.does("prompt"):
        sheets.append(_long_prompt(plan))
    if plan.does("crowd"):
        sheets.append(_crowd(plan))
    if plan.does("cold"):
        sheets.append(cold.run(plan))
    return sheets


class Activator:
    """A thread that attaches the next of some adapters every `EVERY_S` and detaches the one before."""

    def __init__(self, decoder: Decoder, images: dict[str, NDArray[np.uint8]]) -> None:
        self.done = 0
        self._decoder = decoder
        self._images = images
        self._turns = cycle(images)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="activator")

    def prove(self) -> None:
        """Attach each once: what is timed later is the copy and not the proof of its effect."""
        for item, image in self._images.items():
            self._decoder.attach(item, image)
            self._decoder.detach(item)

    async def during(self, hot: streams.Hot, steps: int, least: int) -> list[float]:
        """Return the others' gaps over `steps` steps and at least `least` activations."""
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name="activator")
        target = self.done + least

        async def act() -> None:
            self._thread.start()
            try:
                await hot.steps(steps)
                await hot.until(lambda: self.done >= target or not self._thread.is_alive())
            finally:
                self._over.set()
                await asyncio.to_thread(self._thread.join)

        return await hot.during(act)

    def _run(self) -> None:
        due_s = time.perf_counter()
        while not self._over.wait(max(0.0, due_s - time.perf_counter())):
            item = next(self._turns)
            self._decoder.attach(item, self._images[item])
            self._decoder.detach(item)
            self.done += 1
            due_s += EVERY_S


def beside(
    sheet: Sheet, what: str, pairs: Sequence[tuple[list[float], list[float]]], p50: Goal | None, p99: Goal
) -> None:
    """Add how gaps during something compare with idle ones, block by block."""
    for name, share, goal in (("p50", 0.5, p50), ("p99", 0.99, p99)):
        idle = [percentile(gaps, share) for gaps, _ in pairs]
        busy = [percentile(gaps, share) for _, gaps in pairs]
        sheet.add(f"{what}: {name} idle", Spread.of(idle), "ms")
        sheet.add(f"{what}: {name} meanwhile", Spread.of(busy), "ms")
        ratios = (b / a for a, b in zip(idle, busy, strict=True))
        sheet.add(f"{what}: {name} ÷ idle", Spread.of(ratios), "x", goal=goal)


def _activations(plan: Plan) -> Sheet:
    roles = sizes(plan, (ROLES,), (2,))[0]
    made = plan.made(roles + 4)
    decoder = seated(plan, made, roles, spare=2)
    images = {
        f"cold{at}": rig.image_of(path, made.base, plan.setting(roles))
        for at, path in enumerate(made.adapters[roles:])
    }
    sheet = Sheet(
        f"churn: gaps of {roles} answering roles during 10 activations/s from RAM (shape {made.shape.name})"
    )
    try:
        beside(sheet, "activations", disturbed(plan, decoder, images, roles), at_most(1.05), at_most(1.2))
    finally:
        decoder.stop()
    return sheet


def disturbed(
    plan: Plan, decoder: Decoder, images: dict[str, NDArray[np.uint8]], roles: int
) -> list[tuple[list[float], list[float]]]:
    """Return the gaps of role0 … idle and during activations, for each of the plan's rounds."""
    shape = plan.shape
    activator = Activator(decoder, images)
    activator.prove()

    async def watch() -> list[tuple[list[float], list[float]]]:
        items = [f"role{at}" for at in range(roles)]
        asked = [prompt(shape, shape.prompt, 400 + at) for at in range(roles)]
        length = (2 * plan.repeats + 1) * shape.watch
        async with streams.Hot(decoder, items, asked, min(length, shape.context // 2)) as hot:
            return [
                (await hot.idle(shape.watch), await activator.during(hot, shape.watch, 2))
                for _ in range(plan.repeats)
            ]

    plan.tell(f"activations: {plan.repeats} blocks of {shape.watch} idle and {shape.watch} disturbed steps")
    return list(streams.run(watch()))


def _long_prompt(plan: Plan) -> Sheet:
    roles, shape = sizes(plan, (ROLES,), (2,))[0], plan.shape
    made = plan.made(roles)
    decoder = seated(plan, made, roles)

    firsts: list[float] = []

    async def enter(tokens: list[int]) -> None:
        firsts.append((await streams.ask(decoder, None, tokens, 1)).first_s)

    async def watch() -> list[tuple[list[float], list[float]]]:
        pairs = []
        asked = [prompt(shape, shape.prompt, 500 + at) for at in range(roles)]
        items = [f"role{at}" for at in range(roles)]
        async with streams.Hot(decoder, items, asked, min(512, shape.context // 2)) as hot:
            for seed in range(plan.repeats):
                idle = await hot.idle(shape.watch)
                tokens = prompt(shape, shape.long_prompt, 600 + seed)
                pairs.append((idle, await hot.during(partial(enter, tokens))))
        return pairs

    plan.tell(f"long prompts: {plan.repeats} of {shape.long_prompt} tokens")
    try:
        pairs = streams.run(watch())
    finally:
        decoder.stop()
    sheet = Sheet(
        f"churn: gaps of {roles} roles while a prompt of {shape.long_prompt} enters (shape {shape.name})"
    )
    beside(sheet, "a long prompt", pairs, None, at_most(1.5))
    sheet.add("the long prompt's first token", Spread.of(firsts), "s")
    return sheet


def _crowd(plan: Plan) -> Sheet:
    """Register many small adapters, keep their images in RAM, and let them take turns in the spare slots."""
    shape = plan.shape if plan.quick else S
    roles = sizes(plan, (ROLES,), (2,))[0]
    made = plan.made(roles, shape)
    decoder = seated(plan, made, roles, spare=2)
    few = dict(zip((f"few{at}" for at in count()), small(plan, made.base, shape, ROLES), strict=False))
    gc.collect()
    memory = psutil.Process()
    before = memory.memory_info().rss
    many = {f"small{at}": image for at, image in enumerate(small(plan, made.base, shape, shape.crowd))}
    registered = memory.memory_info().rss - before
    held = sum(image.nbytes for image in many.values())
    plan.tell(f"crowd: {len(many)} images of {max(i.nbytes for i in many.values()) / 1e6:.2f} MB at most")
    activators = Activator(decoder, few), Activator(decoder, many)
    for activator in activators:
        activator.prove()
    active = memory.memory_info().rss - before

    async def watch() -> list[tuple[list[float], list[float]]]:
        asked = [prompt(shape, shape.prompt, 700 + at) for at in range(roles)]
        items = [f"role{at}" for at in range(roles)]
        async with streams.Hot(decoder, items, asked, min(2000, shape.context // 2)) as hot:
            return [
                (
                    await activators[0].during(hot, shape.watch, 2),
                    await activators[1].during(hot, shape.watch, 2),
                )
                for _ in range(plan.repeats)
            ]

    try:
        pairs = streams.run(watch())
    finally:
        decoder.stop()
    sheet = Sheet(
        f"churn: {len(many)} registered adapters beside {len(few)}, both taking turns (shape {shape.name})"
    )
    sheet.count(
        "images, MB", held / 1e6, note=f"{max(i.nbytes for i in many.values()) / 1e6:.2f} MB at most each"
    )
    sheet.count("RSS for them, MB", registered / 1e6)
    ratio = registered / held
    sheet.add("RSS ÷ images", Spread(ratio, ratio, ratio, 1), "x", goal=at_most(1.1))
    ratio = active / held
    sheet.add("RSS ÷ images, after all were active", Spread(ratio, ratio, ratio, 1), "x", goal=at_most(1.1))
    idle = [percentile(gaps, 0.5) for gaps, _ in pairs]
    busy = [percentile(gaps, 0.5) for _, gaps in pairs]
    sheet.add(f"p50 step, {len(few)} registered", Spread.of(idle), "ms")
    sheet.add(f"p50 step, {len(many)} registered", Spread.of(busy), "ms")
    sheet.add("ratio", Spread.of(b / a for a, b in zip(idle, busy, strict=True)), "x", goal=at_most(1.05))
    return sheet


def small(plan: Plan, base: str, shape: Shape, number: int) -> list[NDArray[np.uint8]]:
    """Return images of as many adapters, of rank 1 and 2 on few targets."""
    setting = plan.setting(1, shape)
    images = []
    with TemporaryDirectory() as folder:
        for seed in range(number):
            write_adapter(shape, Path(folder), 5000 + seed, 1 + seed % 2, FEW)
            images.append(rig.image_of(folder, base, setting))
    return images
