"""Runs: rows whose slots lie at equal distances in the arena, so that one product serves them all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import torch

from actors.lm.rowkernels import Pair, same_bits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from actors.lm.image import Layout, Patch

#: Rows or tokens [start, stop) of a batch and what is added to them.
Piece: TypeAlias = tuple[int, int, Pair]


class Run:
    """Slots `first`, `first` + `step`, …, all of one layout; one for each of `scales`.

    Makes its views of the arena when a module first asks. They hold for whatever fills those slots with that
    layout and those scales.
    """

    def __init__(
        self, arena: Tensor, layout: Layout, first: int, step: int, scales: tuple[tuple[float, ...], ...]
    ) -> None:
        self.layout = layout
        self.first = first
        self.step = step
        self.scales = scales
        self._arena = arena
        self._pairs: dict[str, Pair | None] = {}

    def pair(self, module: str) -> Pair | None:
        """Return the matrices of `module`; None if the layout does not touch it."""
        try:
            return self._pairs[module]
        except KeyError:
            return self._pairs.setdefault(module, self._view(module))

    def _view(self, module: str) -> Pair | None:
        place = self.layout.places.get(module)
        if place is None:
            return None
        patch = self.layout.patches[place]
        width, count = self._arena.shape[1], len(self.scales)
        begin, strides = (self.first - 1) * width, (self.step * width,)
        shapes = {
            patch.offset: (patch.rank, patch.in_features),
            patch.b_offset: (patch.out_features, patch.rank),
        }
        a, b = (
            self._arena.as_strided((count, *shape), (*strides, shape[1], 1), begin + offset)
            for offset, shape in shapes.items()
        )
        wide = self._arena.dtype == torch.float32
        if wide:
            a, b = a.mT, b.mT
        g = self._vector(patch) if patch.dora else None
        factors = [scales[place] for scales in self.scales]
        scale = torch.tensor(factors[0])
        if len(set(factors)) > 1:
            scale = torch.tensor(factors, device=a.device).view(-1, 1, 1)
        shape = (patch.in_features, patch.rank, patch.out_features)
        if count == 1:
            return Pair(a[0], b[0], scale, None if g is None else g[0], shape, lone=True, wide=wide)
        return Pair(a, b, scale, g, shape, lone=False, wide=wide)

    def _vector(self, patch: Patch) -> Tensor:  # [n, 1, out], fp32 in every slot
        floats = self._arena.view(torch.float32)
        width, out = floats.shape[1], patch.out_features
        begin = (self.first - 1) * width + patch.g_offset * self._arena.itemsize // 4
        return floats.as_strided((len(self.scales), 1, out), (self.step * width, out, 1), begin)


@dataclass(frozen=True, slots=True)
class Plan:
    """How rows stand in a batch: `order` of their indexes, and the runs in that order from row `start` on."""

    order: tuple[int, ...]
    groups: tuple[tuple[int, Run, tuple[Run, ...]], ...]
    batched_from: int
    exact: bool
    _pieces: dict[str, tuple[Piece, ...]] = field(default_factory=dict)

    def pieces(self, module: str) -> tuple[Piece, ...]:
        """Return what is added to the rows for `module`; found once and kept."""
        found = self._pieces.get(module)
        if found is None:
            found = self._pieces.setdefault(module, tuple(self._find(module)))
        return found

    def _find(self, module: str) -> Iterator[Piece]:
        for start, run, lone in self.groups:
            pair = run.pair(module)
            if pair is None:
                continue
            batched = len(lone) >= self.batched_from and (
                not self.exact or same_bits(pair.shape, pair.a.device)
            )
            if pair.lone or batched:
                yield start, start + len(lone), pair
                continue
            for at, single in enumerate(lone, start):
                alone = single.pair(module)
                if alone is not None:
                    yield at, at + 1, alone


def arrange(
    rows: Sequence[Run | None],
    run_of: Callable[[Layout, int, int, tuple[tuple[float, ...], ...]], Run],
    *,
    batched_from: int,
    exact: bool,
) -> Plan:
    """Put rows, each with the run of its slot alone (None: the base), in an order of few and long runs.

    A slot that has several rows stands in several runs, or in one of step 0. From `batched_from` rows on, a
    run is multiplied as a batch; with `exact` only where that gives the bits of lone rows.
    """
    waiting: dict[Layout, dict[int, list[int]]] = {}
    for index, run in enumerate(rows):
        if run is not None:
            waiting.setdefault(run.layout, {}).setdefault(run.first, []).append(index)
    order: list[int] = []
    groups: list[tuple[int, Run, tuple[Run, ...]]] = []
    for layout, by_slot in waiting.items():
        for first, step, count in _layers(by_slot):
            start = len(order)
            order.extend(by_slot[first + step * at].pop() for at in range(count))
            lone = tuple(run for index in order[start:] if (run := rows[index]) is not None)
            scales = tuple(run.scales[0] for run in lone)
            groups.append((start, run_of(layout, first, step, scales), lone))
    order.extend(index for index, run in enumerate(rows) if run is None)
    return Plan(tuple(order), tuple(groups), batched_from, exact)


def _layers(by_slot: dict[int, list[int]]) -> Iterator[tuple[int, int, int]]:
    """Take one row of each slot, again and again; the rest of a single slot at once. (first, step, count)."""
    while slots := sorted(slot for slot, indexes in by_slot.items() if indexes):
        if len(slots) == 1:
            yield slots[0], 0, len(by_slot[slots[0]])
        else:
            yield from progressions(slots)


def progressions(numbers: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Cut ascending `numbers` into arithmetic progressions: (first, step, count), each as long as it goes."""
    at = 0
    while at < len(numbers):
        first, count = numbers[at], 1
        step = numbers[at + 1] - first if at + 1 < len(numbers) else 0
        while step and at + count < len(numbers) and numbers[at + count] == first + count * step:
            count += 1
        yield first, step, count
        at += count
