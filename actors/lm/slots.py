"""Adapters in slots: one arena row each, and Linears that add a slot's LoRA to that slot's tokens only.

On a CPU the arena is fp32 whatever the images are: bf16 is widened, which is exact, when a slot is filled,
and not again for each token. On a GPU it has the dtype of the images.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from torch import nn

from actors.lm.base import is_head, slot_nbytes
from actors.lm.header import AdapterError
from actors.lm.loader import PIECE_NBYTES
from actors.lm.rowkernels import COUNTS, measure
from actors.lm.runs import Plan, Run, arrange
from actors.lm.upload import Upload
from placement.errors import WorldError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from actors.lm.image import Image, Layout

MEASURED = 3
KEPT_RUNS = 256
KEPT_PLANS = 128
NEVER = 1 << 30
#: Elements that are widened at a time: with what comes of them they stay in the cache.
WIDENED = PIECE_NBYTES // 16


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens [start, stop) of a batch: several of one sequence, which is served by `slot` (0 is the base)."""

    start: int
    stop: int
    slot: int


@dataclass(frozen=True, slots=True)
class Head:
    """One row that reaches the head: served by `slot`; `sliced` out of a prompt, see `Pair.add`."""

    slot: int
    sliced: bool


@dataclass(frozen=True, slots=True)
class Serving:
    """What one forward serves. Rows and chunks of the base are not in it."""

    plan: Plan
    chunks: tuple[tuple[int, int, Run], ...]
    heads: tuple[tuple[int, Run, bool], ...]


@dataclass(slots=True)
class Running:
    """What the running forward serves; None: nothing but the base."""

    now: Serving | None = None


class SlotLinear(nn.Module):
    """A Linear of the base; adds slot s's (x A) B scale to the rows of slot s. Base rows cost nothing."""

    def __init__(self, linear: nn.Module, running: Running, name: str) -> None:
        super().__init__()
        self.linear = linear
        self.running = running
        self.name = name
        self.head = is_head(name)
        #: in, out
        self.shape = cast("tuple[int, int]", (linear.in_features, linear.out_features))
        bias: Tensor | None = getattr(linear, "bias", None)
        base: Callable[[Tensor], Tensor] = linear
        if type(linear) is nn.Linear:
            base = partial(nn.functional.linear, weight=linear.weight, bias=bias)
        # In a tuple and without a module's ceremony: that takes longer than a small product.
        self._own = base, bias

    def forward(self, x: Tensor) -> Tensor:  # [1, N, in] -> [1, N, out]
        base, bias = self._own
        y = base(x)
        serving = self.running.now
        if serving is None:
            return y
        if self.head:
            self._add_to_head(y, x, serving, bias)
            return y
        into, out = self.shape
        for start, stop, pair in serving.plan.pieces(self.name):
            if pair.lone:
                pair.add(y.view(-1, out)[start:stop], x.view(-1, into)[start:stop], bias)
            else:
                pair.add(y.view(-1, 1, out)[start:stop], x.view(-1, 1, into)[start:stop], bias)
        for start, stop, run in serving.chunks:
            found = run.pair(self.name)
            if found is not None:
                found.add(y.view(-1, out)[start:stop], x.view(-1, into)[start:stop], bias)
        return y

    def _add_to_head(self, y: Tensor, x: Tensor, serving: Serving, bias: Tensor | None) -> None:
        for at, run, sliced in serving.heads:
            pair = run.pair(self.name)
            if pair is not None:
                pair.add(y[0, at : at + 1], x[0, at : at + 1], bias, sliced=sliced)


class Slots:
    """The arena [slots, elements] and the Linears that read it; slots are counted from 1, 0 is the base.

    The caller knows which slots are in use, and never fills or empties one of those.
    """

    def __init__(
        self,
        arena: Tensor,
        linears: dict[str, SlotLinear],
        running: Running,
        *,
        dtype: torch.dtype,
        max_rank: int,
        exact: bool,
    ) -> None:
        self.arena = arena
        #: that of the images
        self.dtype = dtype
        self.linears = linears
        self.max_rank = max_rank
        self.nbytes = arena.shape[1] * arena.itemsize
        #: nets that serve a slot instead of the arena, see `Model.seat`
        self.shadows: dict[int, nn.Module] = {}
        #: rows in a batch -> "mm" or "bmm", whichever was faster here
        self.chosen: dict[int, str] = {}
        #: from how many rows on a run is multiplied as a batch
        self.batched_from = 2
        self._running = running
        self._exact = exact
        #: what each slot holds, as a run of its own
        self._lone: list[Run | None] = [None] * (arena.shape[0] + 1)
        self._fitting: set[Layout] = set()
        self._upload = Upload(arena.device, PIECE_NBYTES) if arena.device.type == "cuda" else None
        self._run = lru_cache(KEPT_RUNS)(self._make_run)
        self._plan = lru_cache(KEPT_PLANS)(self._make_plan)

    @classmethod
    def install(
        cls,
        model: nn.Module,
        slots: int,
        max_rank: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        exact: bool = True,
        known: Mapping[int, str] | None = None,
    ) -> Slots:
        """Reserve the arena, put a SlotLinear in place of every Linear of `model`, measure the row kernels.

        What is `known` to be faster for every count of rows is not measured.
        `dtype` is that of the images: float32, or bfloat16, which on a GPU is half the room. With `exact`
        rows always get the bits that they get alone; without, a device may batch them where it rounds
        otherwise.
        """
        running = Running()
        found = dict(_linears(model))
        linears = {}
        for name, linear in found.items():
            parent, _, child = name.rpartition(".")
            linears[name] = SlotLinear(linear, running, name)
            setattr(model.get_submodule(parent), child, linears[name])
        turned = {name: linear.shape[::-1] for name, linear in linears.items()}
        width = slot_nbytes(turned, max_rank, dtype.itemsize) // dtype.itemsize
        held = torch.float32 if device.type == "cpu" else dtype
        arena = torch.empty((slots, width), dtype=held, device=device)
        installed = cls(arena, linears, running, dtype=dtype, max_rank=max_rank, exact=exact)
        bodies = sorted({linear.shape for linear in linears.values() if not linear.head})
        if known is not None and known.keys() == {*COUNTS}:
            installed.chosen = dict(known)
        else:
            tried = bodies[:: -(-len(bodies) // MEASURED) or 1]
            installed.chosen = measure(tried, min(max_rank, 16), device, held)
        batched = [count for count, name in installed.chosen.items() if name == "bmm" and count > 1]
        installed.batched_from = min(batched, default=NEVER)
        return installed

    def plan(self, slots: Sequence[int]) -> Plan:
        """Return the order in which rows of these slots must stand at the head of a batch, and their runs."""
        return self._plan(tuple([self._lone[slot] for slot in slots]))

    @contextmanager
    def serving(self, rows: Sequence[int], chunks: Sequence[Chunk], heads: Sequence[Head]) -> Iterator[None]:
        """Serve a forward: rows of slots `rows` in their plan's order, then chunks; `heads` reach the head.

        May be entered while another forward is served; that one goes on afterwards.
        """
        before, lone = self._running.now, self._lone
        asked = self.plan(rows)
        through = tuple((c.start, c.stop, run) for c in chunks if (run := lone[c.slot]) is not None)
        out = tuple(
            (at, run, head.sliced) for at, head in enumerate(heads) if (run := lone[head.slot]) is not None
        )
        self._running.now = Serving(asked, through, out) if asked.groups or through or out else None
        try:
            yield
        finally:
            self._running.now = before

    def kind(self, slot: int) -> Literal["slot", "shadow"] | None:
        """Tell how `slot` is served; None while it is empty."""
        if slot in self.shadows:
            return "shadow"
        return None if self._lone[slot] is None else "slot"

    def check(self, image: Image) -> None:
        """Raise AdapterError unless every matrix of `image` has its Linear, its shape and its room here.

        Raises WorldError LM004 for an image of another dtype than the slots'.
        """
        layout = image.layout
        if layout in self._fitting:
            return
        if f"torch.{layout.dtype}" != str(self.dtype):
            told = f"an image of {layout.dtype} for slots of {str(self.dtype).removeprefix('torch.')}"
            raise WorldError("LM004", told, "the adapter must be prepared again")
        for patch in layout:
            linear = self.linears.get(patch.module)
            if linear is None:
                raise AdapterError(
                    "ADP020", f"the model has no Linear {patch.module}; it has {list(self.linears)[:5]}"
                )
            shape = linear.shape
            if (patch.in_features, patch.out_features) != shape:
                told = f"{patch.in_features} to {patch.out_features}, the model {shape[0]} to {shape[1]}"
                raise AdapterError("ADP024", f"{patch.module}: the adapter maps {told}")
            if patch.rank > self.max_rank:
                raise AdapterError(
                    "ADP017", f"{patch.module}: rank {patch.rank} is over max_rank {self.max_rank}"
                )
        if layout.size > self.arena.shape[1]:
            told = f"{layout.nbytes} bytes, a slot has room for {self.arena.shape[1] * self.dtype.itemsize}"
            raise AdapterError("ADP032", f"the adapter takes {told}")
        self._fitting.add(layout)

    def fill(self, slot: int, image: Image, pace: Callable[[int], None] | None = None) -> None:
        """Copy a checked image into the free `slot`; then it is served. One copy, no work per module.

        `pace` is called with the bytes after each piece of at most PIECE_NBYTES; what it raises leaves the
        slot empty. One thread at a time, any thread: no forward reads a slot that no request names.
        """
        self.empty(slot)
        if self.arena.dtype == self.dtype:
            self._copy(slot, image, pace)
        else:
            self._widen(slot, image, pace)
        self._lone[slot] = self._run(image.layout, slot, 0, (image.scales,))

    def _copy(self, slot: int, image: Image, pace: Callable[[int], None] | None) -> None:
        source = image.slot.view(np.uint8)
        target = self.arena[slot - 1].view(torch.uint8)[: source.size]
        for start in range(0, source.size, PIECE_NBYTES):
            piece = source[start : start + PIECE_NBYTES]
            if self._upload is None:
                np.copyto(target[start : start + piece.size].numpy(), piece)
            else:
                self._upload.copy(target[start : start + piece.size], piece)
            if pace is not None:
                pace(piece.size)
        if self._upload is not None:
            self._upload.wait()

    def _widen(self, slot: int, image: Image, pace: Callable[[int], None] | None) -> None:
        """Copy an image of bf16 into a slot of fp32: each value exactly, at the same place in elements."""
        target = self.arena[slot - 1].numpy()
        bits = target.view(np.uint32)
        for start in range(0, image.slot.size, WIDENED):
            piece = image.slot[start : start + WIDENED]
            into = bits[start : start + piece.size]
            np.copyto(into, piece)
            np.left_shift(into, 16, out=into)
            if pace is not None:
                pace(piece.nbytes)
        for patch in image.layout:
            if patch.dora:
                start, nbytes = patch.g_offset, 4 * patch.out_features
                vector = image.slot[start : start + nbytes // patch.itemsize].view(np.float32)
                target[start : start + vector.size] = vector

    def empty(self, slot: int) -> None:
        """Forget what is in `slot`; the bytes stay until the next fill."""
        self._lone[slot] = None
        self.shadows.pop(slot, None)

    def _make_plan(self, rows: tuple[Run | None, ...]) -> Plan:
        return arrange(rows, self._run, batched_from=self.batched_from, exact=self._exact)

    def _make_run(self, layout: Layout, first: int, step: int, scales: tuple[tuple[float, ...], ...]) -> Run:
        return Run(self.arena, layout, first, step, scales)


def _linears(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield every Linear, also one of a library kernel, by its name; nothing within one."""
    for child, part in module.named_children():
        path = f"{name}.{child}" if name else child
        if isinstance(part, nn.Linear) or (hasattr(part, "in_features") and hasattr(part, "out_features")):
            yield path, part
        else:
            yield from _linears(part, path)
