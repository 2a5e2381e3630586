"""Adapters in slots: one arena row each, and Linears that add a slot's LoRA to that slot's tokens only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.functional import pad

from actors.lm.base import is_head, slot_nbytes
from actors.lm.header import AdapterError

if TYPE_CHECKING:
    from torch import Tensor

    from actors.lm.image import Image


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens [start, stop) of a batch that belong to `slot` (1 and up; the base, 0, needs no segment)."""

    start: int
    stop: int
    slot: int


@dataclass(slots=True)
class Segments:
    """The segments of the running forward: of all tokens, and of those that reach the output head.

    `pad_to` makes every segment's GEMM this many rows, so that its result does not depend on who else is in
    the batch.
    """

    body: tuple[Segment, ...] = ()
    head: tuple[Segment, ...] = ()
    pad_to: int = 0

    def use(self, body: tuple[Segment, ...], head: tuple[Segment, ...], pad_to: int) -> None:
        """Set all three, before a forward."""
        self.body, self.head, self.pad_to = body, head, pad_to


@dataclass(frozen=True, slots=True)
class Pair:
    """One module's matrices in one slot, views of the arena; `scale` multiplies the product, no matrix."""

    a: Tensor  # [in, rank] and
    b: Tensor  # [rank, out]: transposed views, so that each GEMM is the very one that PEFT's Linear runs
    scale: float


class SlotLinear(nn.Module):
    """A Linear of the base; adds slot s's (x A) B scale to the rows of segment s. Base rows cost nothing.

    Slots are fp32 and so is the sum, as in PEFT, whatever the dtype of the base.
    """

    def __init__(self, linear: nn.Linear, segments: Segments, slots: int, *, head: bool) -> None:
        super().__init__()
        self.linear = linear
        self.segments = segments
        self.head = head
        #: pairs[slot] is None where that slot's adapter does not touch this module
        self.pairs: list[Pair | None] = [None] * (slots + 1)

    def forward(self, x: Tensor) -> Tensor:  # [..., in] -> [..., out]
        y: Tensor = self.linear(x)
        segments = self.segments.head if self.head else self.segments.body
        for segment in segments:
            pair = self.pairs[segment.slot]
            if pair is not None:
                rows = x.view(-1, x.shape[-1])[segment.start : segment.stop]
                self._add(y.view(-1, y.shape[-1])[segment.start : segment.stop], rows, pair)
        return y

    def _add(self, y: Tensor, x: Tensor, pair: Pair) -> None:
        missing = self.segments.pad_to - x.shape[0]
        wide = x.to(pair.a.dtype) if missing <= 0 else pad(x.to(pair.a.dtype), (0, 0, 0, missing))
        delta = torch.mm(torch.mm(wide, pair.a), pair.b)[: x.shape[0]]
        delta.mul_(pair.scale)
        y.add_(delta) if y.dtype == delta.dtype else y.copy_(y + delta)


@dataclass(slots=True)
class Slots:
    """The arena [slots, floats] and the Linears that read it.

    The caller knows which slots are in use, and never fills or empties one of those.
    """

    arena: Tensor
    linears: dict[str, SlotLinear]
    max_rank: int
    segments: Segments
    nbytes: int = field(default=0)

    @classmethod
    def install(cls, model: nn.Module, slots: int, max_rank: int, device: torch.device) -> Slots:
        """Reserve the arena and put a SlotLinear in place of every Linear of `model`."""
        found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        shapes = {name: (linear.out_features, linear.in_features) for name, linear in found.items()}
        segments = Segments()
        linears = {}
        for name, linear in found.items():
            parent, _, child = name.rpartition(".")
            linears[name] = SlotLinear(linear, segments, slots, head=is_head(name))
            setattr(model.get_submodule(parent), child, linears[name])
        nbytes = slot_nbytes(shapes, max_rank)
        arena = torch.empty((slots, nbytes // 4), dtype=torch.float32, device=device)
        return cls(arena, linears, max_rank, segments, nbytes)

    def check(self, image: Image) -> None:
        """Raise AdapterError unless every matrix of `image` has its Linear, its shape and its room here."""
        for patch in image.layout:
            linear = self.linears.get(patch.module)
            if linear is None:
                raise AdapterError(
                    "ADP020", f"the model has no Linear {patch.module}; it has {list(self.linears)[:5]}"
                )
            shape = (linear.linear.in_features, linear.linear.out_features)
            if (patch.in_features, patch.out_features) != shape:
                told = f"{patch.in_features} to {patch.out_features}, the model {shape[0]} to {shape[1]}"
                raise AdapterError("ADP024", f"{patch.module}: the adapter maps {told}")
            if patch.rank > self.max_rank:
                raise AdapterError(
                    "ADP017", f"{patch.module}: rank {patch.rank} is over max_rank {self.max_rank}"
                )
        if image.slot.nbytes > self.nbytes:
            raise AdapterError(
                "ADP032", f"the adapter takes {image.slot.nbytes} bytes, a slot has {self.nbytes}"
            )

    def fill(self, slot: int, image: Image) -> None:
        """Copy a checked image into the free `slot`, whole, and point the Linears at it.

        Any thread: no forward reads a slot that no request names. Raises AdapterError ADP013 for NaN or Inf.
        """
        self.empty(slot)
        row = self.arena[slot - 1, : image.slot.size]
        if row.device.type == "cpu":
            np.copyto(row.numpy(), image.slot)
        else:
            staging = torch.empty(image.slot.size, dtype=torch.float32, pin_memory=True)
            np.copyto(staging.numpy(), image.slot)
            row.copy_(staging)
        # One pass at memory speed: NaN and Inf survive a sum. Only a sum that overflows needs a second look.
        if not bool(torch.isfinite(row.sum())) and not bool(torch.isfinite(row).all()):
            broken = int((~torch.isfinite(row)).sum())
            raise AdapterError("ADP013", f"the image holds {broken} values that are NaN or Inf")
        for patch in image.layout:
            a = row[patch.offset : patch.offset + patch.rank * patch.in_features]
            b = row[patch.b_offset : patch.b_offset + patch.rank * patch.out_features]
            pair = Pair(a.view(patch.rank, -1).T, b.view(-1, patch.rank).T, patch.scale)
            self.linears[patch.module].pairs[slot] = pair

    def empty(self, slot: int) -> None:
        """Forget what is in `slot`; the bytes stay until the next fill."""
        for linear in self.linears.values():
            linear.pairs[slot] = None
