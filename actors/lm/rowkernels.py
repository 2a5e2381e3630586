"""How single rows are multiplied with the matrices of their slots: the same bits as PEFT, in the best way.

A row is always one row of a GEMM, alone or as one of many in a batched one. `same_bits` proves that both
give the same, `measure` tells from how many rows on the batched one is faster.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

#: Row counts that are measured.
COUNTS = (1, 2, 8, 16)
BUDGET_S = 0.4
REPEATS = 5


@dataclass(frozen=True, slots=True)
class Pair:
    """One module's matrices in the slots of a run; views of the arena.

    The arithmetic is fp32 whatever the dtype of slots and base: bf16 matrices are widened first, which is
    exact. fp32 ones are transposed views, so that each GEMM is the very one that PEFT's Linear runs.
    """

    a: Tensor  # fp32 [in, rank], bf16 [rank, in]; of n slots [n, in, rank] or [n, rank, in]
    b: Tensor  # fp32 [rank, out], bf16 [out, rank]; of n slots likewise
    scale: Tensor  # [], or [n, 1, 1] where the slots of a run differ
    g: Tensor | None  # [1, out], of n slots [n, 1, out]; only for DoRA
    shape: tuple[int, int, int]  # in, rank, out
    lone: bool  # of one slot
    wide: bool  # fp32

    def add(self, y: Tensor, x: Tensor, bias: Tensor | None, *, sliced: bool = False) -> None:
        """Add to y [m, out] what x [m, in] gives, in PEFT's order of operations; [n, 1, …] for n slots.

        `sliced`: PEFT takes the head's last position out of a prompt by a slice that torch does not fold, so
        it multiplies A by bmm. That is mm to the bit but for the tiniest of matrices.
        """
        a, b = (self.a, self.b) if self.wide else (self.a.float().mT, self.b.float().mT)
        if not (plain := x.dtype == torch.float32):
            x = x.float()
        if sliced:
            delta = torch.mm(torch.bmm(x[None], a[None])[0], b)
        elif self.lone:
            delta = torch.mm(torch.mm(x, a), b)
        else:
            delta = torch.bmm(torch.bmm(x, a), b)
        if self.g is None:
            delta.mul_(self.scale)
        else:
            base = y if bias is None else y - bias
            delta = (self.g - 1) * base + self.g * delta * self.scale
        if plain:
            y.add_(delta)
        else:
            y.copy_(y + delta)


def same_bits(shape: tuple[int, int, int], device: torch.device) -> bool:
    """Tell whether rows of a batched product equal lone rows to the bit here, however many they are."""
    into, rank, out = shape
    threads = torch.get_num_threads()
    return _same_bits(into, rank, device, threads) and _same_bits(rank, out, device, threads)


@lru_cache(maxsize=4096)
def _same_bits(inner: int, outer: int, device: torch.device, threads: int) -> bool:  # noqa: ARG001 -- a key
    # torch's bmm has a loop of its own below 400 products, and libraries choose kernels by shape.
    dice = torch.Generator().manual_seed(inner * 31 + outer)
    x = torch.randn(max(COUNTS), 1, inner, generator=dice).to(device)
    matrix = torch.randn(outer, inner, generator=dice).to(device).mT
    lone = torch.stack([torch.mm(row, matrix) for row in x])
    return all(
        torch.equal(torch.bmm(x[:count], matrix.expand(count, inner, outer)), lone[:count])
        for count in (3, *COUNTS[1:])
    )


def measure(
    shapes: Sequence[tuple[int, int]], rank: int, device: torch.device, dtype: torch.dtype
) -> dict[int, str]:
    """Return the faster way, "mm" or "bmm", for each of COUNTS rows, each of a slot of its own.

    `shapes` are (in, out) of the modules to try, at `rank`. Takes at most half a second: what is not
    measured by then is bmm.
    """
    began_s = time.perf_counter()
    chosen = dict.fromkeys(COUNTS, "bmm")
    for count in COUNTS:
        spent = {"mm": 0.0, "bmm": 0.0}
        for into, out in shapes:
            a = torch.full((count, rank, into), 0.5, dtype=dtype, device=device)
            b = torch.full((count, out, rank), 0.5, dtype=dtype, device=device)
            x = torch.full((count, 1, into), 0.5, device=device)
            y = torch.zeros((count, 1, out), device=device)
            batch, *lone = [_pair(a, b), *(_pair(a[at], b[at]) for at in range(count))]
            for name, pairs in (("mm", lone), ("bmm", [batch])):
                taken = []
                for _ in range(REPEATS):
                    start_s = time.perf_counter()
                    for at, pair in enumerate(pairs):
                        pair.add(y[at] if pair.lone else y, x[at] if pair.lone else x, None)
                    if device.type == "cuda":
                        torch.cuda.synchronize(device)
                    taken.append(time.perf_counter() - start_s)
                spent[name] += min(taken)
            if time.perf_counter() - began_s > BUDGET_S:
                return chosen
        chosen[count] = min(spent, key=spent.__getitem__)
    return chosen


def _pair(a: Tensor, b: Tensor) -> Pair:
    shape, wide = (a.shape[-1], a.shape[-2], b.shape[-2]), a.dtype == torch.float32
    if wide:
        a, b = a.mT, b.mT
    return Pair(a, b, torch.tensor(1.0), None, shape, lone=a.dim() == 2, wide=wide)
