"""Activation: an adapter's bytes into a slot beside a plain copy of them, and beside PEFT's ways."""

from __future__ import annotations

import statistics
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actors.bench import baselines, rig
from actors.bench.sheet import Sheet, at_least, at_most
from actors.bench.spread import Spread, interleaved, over, seconds, timed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from actors.bench.plan import Plan
    from actors.bench.shapes import Made

PARTS = ("engine", "peft")
#: adapters in PEFT's tree when it loads one more: what it walks grows with them
CROWD = 11
TIMES = 7


def run(plan: Plan) -> list[Sheet]:
    """Measure what brings an adapter up, in one run: ours, copies and reads of the bytes, PEFT."""
    made = plan.made(CROWD + 1)
    cases = Ours(plan, made).cases()
    if plan.does("peft"):
        cases |= _peft(made)
    plan.tell(f"{len(cases)} cases, {plan.repeats} rounds")
    found = interleaved(cases, plan.repeats)
    return [_times(plan, found), _ratios(found)]


class Ours:
    """Slots and a decoder that take the same images in turn, each into the next slot."""

    def __init__(self, plan: Plan, made: Made) -> None:
        setting = plan.setting(4)
        images = [rig.image_of(path, made.base, setting) for path in made.adapters[:8]]
        self.folder = Path(plan.cache) / f"{made.shape.name}-images"
        self.files = _files(self.folder, images)
        self.model = rig.load_model(made.base, setting)
        self.decoder = rig.load_decoder(made.base, setting)
        self.images = images
        self.payloads = [rig.payload(image) for image in images]
        self.slots = rig.slot_arrays(self.model)
        self.buffer = np.zeros(max(image.nbytes for image in images), np.uint8)
        self.turn = 0
        for at, image in enumerate(images):  # each is proven once, and that is not timed
            self.decoder.attach(f"role{at}", image)
            self.decoder.detach(f"role{at}")

    def cases(self) -> dict[str, Callable[[], float]]:
        fillers = [rig.filler(self.model, image) for image in self.images]
        places = cycle(range(len(self.slots)))
        sources = cycle(range(len(self.images)))

        def memcpy() -> float:
            source, target = self.payloads[next(sources)], self.slots[next(places)]
            return seconds(lambda: np.copyto(target[: source.nbytes], source))

        def fill() -> float:
            act, slot = fillers[next(sources)], 1 + next(places)
            return seconds(lambda: act(slot))

        def attach() -> float:
            at = next(sources)
            took_s = seconds(lambda: self.decoder.attach(f"role{at}", self.images[at]))
            self.decoder.detach(f"role{at}")
            return took_s

        def from_file() -> float:
            path, slot = self.files[next(sources)], 1 + next(places)
            return seconds(lambda: rig.fill(self.model, slot, rig.mapped(path)))

        def read() -> float:
            path = self.files[next(sources)]
            return seconds(lambda: _read(path, self.buffer))

        cases = {
            "memcpy": memcpy,
            "RAM image to slot": fill,
            "attach, whole call": attach,
            "SSD image to slot": from_file,
            "read()": read,
        }
        return {what: partial(_median, case) for what, case in cases.items()}


def _median(case: Callable[[], float]) -> float:
    """Return the median of `TIMES` in a row: one copy is over so soon that any interruption shows."""
    return statistics.median(case() for _ in range(TIMES))


def _peft(made: Made) -> dict[str, Callable[[], float]]:
    """Return PEFT's cases; its base is in the dtype of the checkpoint, as its user would load it."""
    few = baselines.Peft(made.base, made.adapters[:1], made.shape.dtype)
    many = baselines.Peft(made.base, made.adapters[:CROWD], made.shape.dtype)
    extra = made.adapters[CROWD]
    turns, swaps = cycle(range(CROWD)), cycle(made.adapters[:2])

    def load(into: baselines.Peft) -> float:
        took_s = seconds(lambda: into.load(extra))
        into.forget()
        return took_s

    return {
        "PEFT load_adapter, 1 present": lambda: load(few),
        f"PEFT load_adapter, {CROWD} present": lambda: load(many),
        "PEFT set_adapter": timed(lambda: many.activate(next(turns))),
        "PEFT hotswap_adapter": timed(lambda: few.swap(next(swaps))),
    }


def _times(plan: Plan, found: dict[str, list[float]]) -> Sheet:
    sheet = Sheet(f"activation: what one takes (shape {plan.shape.name})")
    for what, values in found.items():
        sheet.add(what, Spread.of(values), "ms")
    return sheet


def _ratios(found: dict[str, list[float]]) -> Sheet:
    sheet = Sheet("activation: ratios within the same rounds")
    memcpy, ram = found["memcpy"], found["RAM image to slot"]
    sheet.add(
        "RAM to slot ÷ memcpy", over(ram, memcpy), "x", goal=at_most(1.2), note="same bytes, same places"
    )
    sheet.add(
        "attach ÷ memcpy",
        over(found["attach, whole call"], memcpy),
        "x",
        note="an idle decoder, proven before",
    )
    ssd = found["SSD image to slot"]
    sheet.add("SSD to slot ÷ memcpy", over(ssd, memcpy), "x", goal=at_most(2.5), note="page cache warm")
    sheet.add("SSD to slot ÷ read()", over(ssd, found["read()"]), "x")
    goals = {
        "PEFT load_adapter, 1 present": at_least(40),
        f"PEFT load_adapter, {CROWD} present": at_least(80),
    }
    for what, values in found.items():
        if what.startswith("PEFT"):
            sheet.add(f"{what} ÷ RAM to slot", over(values, ram), "x", goal=goals.get(what))
    return sheet


def _files(folder: Path, images: Sequence[NDArray[np.uint8]]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{at}.image" for at in range(len(images))]
    for path, image in zip(files, images, strict=True):
        path.write_bytes(image.data)
    return files


def _read(path: Path, buffer: NDArray[np.uint8]) -> None:
    with path.open("rb", buffering=0) as file:
        file.readinto(buffer.data)
