"""A CUDA GPU: a large random base that is made on the device, and 64 adapters that come and go."""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch

from actors.bench import rig, shapes, streams
from actors.bench.churn import beside, disturbed
from actors.bench.decode import block, fresh, seats
from actors.bench.plan import sizes
from actors.bench.sheet import Sheet, at_most
from actors.bench.spread import Spread, interleaved, over, seconds
from actors.gauges import vram_gauge
from placement.errors import WorldError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from actors.bench.plan import Plan
    from actors.lm.decoder import Decoder

PARTS = ("activation", "churn", "decode", "memory")
DEVICE = "cuda:0"
ADAPTERS = 64
RANKS = (16, 64)
HOT = 8
#: the geometry of Qwen3-8B
LARGE = shapes.Shape(
    "8B", 36, 4096, 32, 8, 128, 12_288, 151_936, "bfloat16", context=8192, rank=16, kv_nbytes=4 << 30,
    steps=30, watch=200, prompt=64, answer=32, long_prompt=4096, persona=256, crowd=0,
)  # fmt: skip


def run(plan: Plan) -> list[Sheet]:
    """Measure on the first GPU, rank by rank. Raises WorldError LM014 if torch finds none."""
    if not torch.cuda.is_available():
        raise WorldError("LM014", "torch finds no CUDA GPU here, so there is nothing to measure")
    ranks = sizes(plan, RANKS, (2, 4))
    number = sizes(plan, (ADAPTERS,), (10,))[0]
    of = shapes.T if plan.quick else LARGE
    sheets = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        decoder = _made(replace(plan, shape=replace(of, rank=max(ranks))), folder, number + 2)
        try:
            for rank in ranks:
                sheets += _ranked(replace(plan, shape=replace(of, rank=rank)), decoder, folder, number)
            if plan.does("memory"):
                sheets.append(_memory(decoder))
        finally:
            decoder.stop()
    return sheets


def _made(plan: Plan, folder: Path, slots: int) -> Decoder:
    """Return a decoder whose base got its random weights on the device: none of them was ever on a disk."""
    plan.tell(f"{plan.shape.name} is made on {DEVICE}, with {slots} slots of rank {plan.shape.rank}")
    config = plan.shape.config()
    config.tie_word_embeddings = False
    rig.hollow(config, folder / "base")
    shapes.write_tokenizer(folder / "base")
    setting = plan.setting(slots, device=DEVICE, dtype="bfloat16", slot_dtype="bfloat16")
    decoder = rig.load_decoder(str(folder / "base"), setting)
    rig.randomise(decoder)
    return decoder


def _ranked(plan: Plan, decoder: Decoder, folder: Path, number: int) -> list[Sheet]:
    """Measure with `number` adapters of the rank of the plan's shape; no slot is in use afterwards."""
    rank = plan.shape.rank
    shapes.write_adapter(plan.shape, folder / f"adapter{rank}", 1, rank, shapes.TARGETS, "bfloat16")
    setting = plan.setting(1, slot_dtype="bfloat16")
    first = rig.image_of(str(folder / f"adapter{rank}"), str(folder / "base"), setting)
    images = [rig.renamed(first, 1000 * rank + at) for at in range(number)]
    plan.tell(f"rank {rank}: {number} images of {first.nbytes / 1e6:.0f} MB")
    sheets = []
    if plan.does("activation"):
        sheets.append(_activation(plan, decoder, images, folder))
    roles = [f"role{at}" for at in range(number)]
    for role, image in zip(roles, images, strict=True):
        decoder.attach(role, image)
    if plan.does("churn"):
        sheets.append(_churn(plan, decoder, first))
    if plan.does("decode"):
        sheets += _decode(plan, decoder)
    for role in roles:
        decoder.detach(role)
    return sheets


def _activation(plan: Plan, decoder: Decoder, images: list[NDArray[np.uint8]], folder: Path) -> Sheet:
    """Time `attach` from each kind of memory beside the bare transfer of as many bytes."""
    pinned = [_pinned(image) for image in images[:4]]
    files = [folder / f"{at}.image" for at in range(4)]
    for path, image in zip(files, images, strict=False):
        path.write_bytes(image.data)
    held = torch.from_numpy(pinned[0])
    on_device = torch.empty(held.shape, dtype=torch.uint8, device=DEVICE)

    def transfer() -> float:
        torch.cuda.synchronize()
        return seconds(partial(_awaited, lambda: on_device.copy_(held, non_blocking=True)))

    def bring(image: Callable[[], NDArray[np.uint8]]) -> float:
        took_s = seconds(partial(_awaited, lambda: decoder.attach("probe", image())))
        decoder.detach("probe")
        return took_s

    turns = {name: cycle(range(4)) for name in ("pinned", "pageable", "SSD")}
    cases: dict[str, Callable[[], float]] = {
        "H2D of the same bytes": transfer,
        "pinned RAM to slot": lambda: bring(lambda: pinned[next(turns["pinned"])]),
        "pageable RAM to slot": lambda: bring(lambda: images[next(turns["pageable"])]),
        "SSD to slot": lambda: bring(lambda: rig.mapped(files[next(turns["SSD"])])),
    }
    found = interleaved({what: partial(_median, case) for what, case in cases.items()}, plan.repeats)
    bare = found["H2D of the same bytes"]
    nbytes = held.numel()
    sheet = Sheet(f"gpu: activation of {nbytes / 1e6:.0f} MB, rank {plan.shape.rank} bf16 on all targets")
    sheet.add("H2D bandwidth", Spread.of(nbytes / took_s / 1e9 for took_s in bare), "GB/s", note="pinned")
    for what, values in found.items():
        sheet.add(what, Spread.of(values), "ms")
    for what, values in found.items():
        if values is not bare:
            note = "page cache warm" if what.startswith("SSD") else ""
            sheet.add(f"{what} ÷ (bytes ÷ bandwidth)", over(values, bare), "x", note=note)
    return sheet


def _median(case: Callable[[], float]) -> float:
    return statistics.median(case() for _ in range(7))


def _awaited(act: Callable[[], object]) -> None:
    act()
    torch.cuda.synchronize()


def _pinned(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    kept = torch.empty(image.nbytes, dtype=torch.uint8, pin_memory=True).numpy()
    np.copyto(kept, image)
    return kept


def _churn(plan: Plan, decoder: Decoder, first: NDArray[np.uint8]) -> Sheet:
    rank = plan.shape.rank
    coming = {f"cold{at}": rig.renamed(first, 1000 * rank + 500 + at) for at in range(2)}
    sheet = Sheet(f"gpu: gaps of {HOT} answering roles during 10 activations/s, rank {rank}")
    beside(sheet, "activations", disturbed(plan, decoder, coming, HOT), at_most(1.05), at_most(1.2))
    return sheet


def _decode(plan: Plan, decoder: Decoder) -> list[Sheet]:
    """Time steps of 8 and of 32 sequences: each its own role, all one role, all the base."""
    model, shape = rig.model_of(decoder), plan.shape
    batches = sizes(plan, (8, 32), (4, 8))
    asked = [shapes.prompt(shape, shape.prompt, 40 + at) for at in range(max(batches))]
    batch = rig.Batch(model, asked)
    cases: dict[str, Callable[[], float]] = {}
    for size in batches:
        for what, roles in (("base", 0), ("one role", 1), (f"{size} roles", size)):
            cases[f"B={size} {what}"] = partial(block, batch, seats(size, roles), shape.steps)
    found = interleaved(cases, plan.repeats)
    sheet = Sheet(f"gpu: one decode step, rank {shape.rank} (the decoder's own loop is idle)")
    ratios = Sheet("gpu: steps ÷ base-only steps")
    for what, values in found.items():
        sheet.add(what, Spread.of(values), "ms")
        among, _, named = what.partition(" ")
        if named != "base":
            ratios.add(what, over(values, found[f"{among} base"]), "x")
    new, callers = fresh(shape, 1), max(batches)
    rate, _ = streams.run(
        streams.closed_loop(decoder, callers, 2, lambda at, _: (f"role{at % HOT}", new()[0]), shape.answer)
    )
    sheet.add(f"closed loop, {callers} callers", Spread(rate, rate, rate, 1), "tok/s", note="once")
    return [sheet, ratios]


def _memory(decoder: Decoder) -> Sheet:
    """Compare what the ledger counts with what NVML says of the device."""
    slots = decoder.slot_nbytes * decoder.stats().slots
    counted = decoder.base_nbytes + decoder.kv_nbytes + slots
    sheet = Sheet("gpu: memory, GB")
    for what, nbytes in (("base", decoder.base_nbytes), ("KV", decoder.kv_nbytes), ("slots", slots)):
        sheet.add(what, f"{nbytes / 1e9:.2f}")
    sheet.add("torch, reserved", f"{torch.cuda.memory_reserved() / 1e9:.2f}")
    gauge = vram_gauge(DEVICE, counted)
    if gauge is None:
        sheet.add("NVML", "N/A", note="no nvidia-ml-py, or it may not read this device")
        return sheet
    sheet.add("of the device", f"{gauge.total / 1e9:.2f}", note=gauge.source)
    sheet.add("taken by others", f"{gauge.others / 1e9:.2f}", note="CUDA's own context included")
    free = gauge.total - gauge.others - counted
    sheet.add("left", f"{free / 1e9:.2f}", note="within the budget" if free >= 0 else "over the budget")
    return sheet
