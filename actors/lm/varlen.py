"""Attention of a whole batch in one kernel, where the device has one: torch's varlen attention on CUDA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.attention.varlen import varlen_attn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from actors.lm.attention import Span

#: FlashAttention's kernels take head sizes that are a multiple of the first, up to the second.
SIZE_STEP, SIZE_MOST = 8, 256


@dataclass(frozen=True, slots=True)
class Flash:
    """Where the queries and keys of B sequences stand, as the kernel wants it; int32, on the device.

    Keys of a sequence are contiguous rows of one pool, so they need no table of pages: `first_keys` says
    where each begins and `seen` how many are valid. The kernel never reads the last of `first_keys`.
    """

    start: int
    stop: int
    first_queries: Tensor  # [B + 1], counted from `start`; the last is the end
    first_keys: Tensor  # [B + 1], in any order
    seen: Tensor  # [B]
    most_queries: int

    @staticmethod
    def fits(query: Tensor, value: Tensor) -> bool:
        """Tell whether the kernel takes tensors of this device, dtype and head size."""
        size = query.shape[3]
        return (
            query.device.type == "cuda"
            and query.dtype in {torch.float16, torch.bfloat16}
            and size == value.shape[3]
            and size % SIZE_STEP == 0
            and size <= SIZE_MOST
        )

    @classmethod
    def of(cls, spans: Sequence[Span], device: torch.device) -> Flash:
        """Lay out `spans`, at least one, whose queries stand one behind the other."""

        def ints(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int32, device=device)

        start = spans[0].start
        return cls(
            start,
            spans[-1].stop,
            ints([0, *(span.stop - start for span in spans)]),
            ints([*(span.row for span in spans), 0]),
            ints([span.length for span in spans]),
            max(span.stop - span.start for span in spans),
        )

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, scaling: float | None, window: int | None
    ) -> Tensor:
        """Attend query [1, heads, N, size] over pools [kv heads, rows, size]; return [1, its, heads, size].

        How a sequence is computed does not depend on its neighbours: the keys are read in one split, and the
        bound on keys is that of the pool. (The bound on queries picks a kernel: rows and chunks go apart.)
        """
        out: Tensor = varlen_attn(  # type: ignore[assignment]
            query[0, :, self.start : self.stop].transpose(0, 1),
            keys.transpose(0, 1),
            values.transpose(0, 1),
            self.first_queries,
            self.first_keys,
            self.most_queries,
            keys.shape[1],
            scale=scaling,
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=query.shape[1] != keys.shape[0],
            seqused_k=self.seen,
            num_splits=1,
        )
        return out[None]
