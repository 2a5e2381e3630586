"""Adapters in slots: one arena row each, and Linears that add a slot's LoRA to that slot's tokens only."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from actors.lm.base import is_head, slot_nbytes
from actors.lm.header import AdapterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from actors.lm.image import Image


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens [start, stop) of a batch: several of one sequence, which is served by `slot` (0 is the base)."""

    start: int
    stop: int
    slot: int


@dataclass(slots=True)
class Serving:
    """What the running forward serves: its rows by slot, of all tokens and of those that reach the head."""

    body: tuple[Chunk, ...] = ()
    head: tuple[Chunk, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """One module's matrices in one slot, views of the arena; `scale` multiplies the product, no matrix."""

    a: Tensor  # [in, rank] and
    b: Tensor  # [rank, out]: transposed views, so that each GEMM is the very one that PEFT's Linear runs
    scale: float


class SlotLinear(nn.Module):
    """A Linear of the base; adds slot s's (x A) B scale to the rows of slot s. Base rows cost nothing.

    Slots are fp32 and so is the sum, as in PEFT, whatever the dtype of the base.
    """

    def __init__(self, linear: nn.Linear, serving: Serving, slots: int, *, head: bool) -> None:
        super().__init__()
        self.linear = linear
        self.serving = serving
        self.head = head
        #: pairs[slot] is None where that slot's adapter does not touch this module
        self.pairs: list[Pair | None] = [None] * (slots + 1)

    def forward(self, x: Tensor) -> Tensor:  # [..., in] -> [..., out]
        y: Tensor = self.linear(x)
        for chunk in self.serving.head if self.head else self.serving.body:
            pair = self.pairs[chunk.slot]
            if pair is not None:
                rows = x.view(-1, x.shape[-1])[chunk.start : chunk.stop]
                self._add(y.view(-1, y.shape[-1])[chunk.start : chunk.stop], rows, pair)
        return y

    def _add(self, y: Tensor, x: Tensor, pair: Pair) -> None:
        delta = torch.mm(torch.mm(x.to(pair.a.dtype), pair.a), pair.b)
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
    running: Serving
    nbytes: int = field(default=0)

    @classmethod
    def install(cls, model: nn.Module, slots: int, max_rank: int, device: torch.device) -> Slots:
        """Reserve the arena and put a SlotLinear in place of every Linear of `model`."""
        found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        shapes = {name: (linear.out_features, linear.in_features) for name, linear in found.items()}
        running = Serving()
        linears = {}
        for name, linear in found.items():
            parent, _, child = name.rpartition(".")
            linears[name] = SlotLinear(linear, running, slots, head=is_head(name))
            setattr(model.get_submodule(parent), child, linears[name])
        nbytes = slot_nbytes(shapes, max_rank)
        arena = torch.empty((slots, nbytes // 4), dtype=torch.float32, device=device)
        return cls(arena, linears, max_rank, running, nbytes)

    def order(self, slots: Sequence[int | None]) -> list[int]:
        """Return the order in which parts should stand in a batch: rows by their slot, then chunks (None)."""
        return sorted(range(len(slots)), key=lambda index: (slots[index] is None, slots[index] or 0))

    @contextmanager
    def serving(self, rows: Sequence[int], chunks: Sequence[Chunk], heads: Sequence[int]) -> Iterator[None]:
        """Serve a forward whose first rows are of the slots `rows`, whose head sees rows of slots `heads`.

        May be entered while another forward is served; that one goes on afterwards.
        """
        before = self.running.body, self.running.head
        self.running.body = (*_singles(rows), *chunks)
        self.running.head = _singles(heads)
        try:
            yield
        finally:
            self.running.body, self.running.head = before

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


def _singles(slots: Sequence[int]) -> tuple[Chunk, ...]:
    return tuple(Chunk(at, at + 1, slot) for at, slot in enumerate(slots) if slot)
