"""Room for keys and values: token rows in one block per layer, given out as contiguous spans."""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING

import torch

from placement.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

#: Rows behind the last one that a request can get: for the probe prompt and for padding.
SCRATCH = 16


class Spans:
    """Contiguous spans of `capacity` rows, first fit. One thread."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        #: (start, size) of every gap, ordered by start; no two gaps touch
        self._gaps: list[tuple[int, int]] = [(0, capacity)]

    def take(self, size: int) -> int | None:
        """Return the first row of `size` free ones, None while no gap is large enough."""
        for index, (start, gap) in enumerate(self._gaps):
            if gap >= size:
                self._gaps[index : index + 1] = [(start + size, gap - size)] if gap > size else []
                self.used += size
                return start
        return None

    def free(self, start: int, size: int) -> None:
        """Give back a span that `take` returned."""
        insort(self._gaps, (start, size))
        self.used -= size
        merged: list[tuple[int, int]] = []
        for begin, gap in self._gaps:
            if merged and sum(merged[-1]) == begin:
                merged[-1] = (merged[-1][0], merged[-1][1] + gap)
            else:
                merged.append((begin, gap))
        self._gaps = merged


class Rows:
    """Keys and values of every layer, each [kv heads, rows, head size], reserved at once; and their spans."""

    def __init__(
        self, config: PretrainedConfig, nbytes: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Reserve at most `nbytes`. Raises UserError LM009 if not even a short request fits."""
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.row_nbytes = 2 * config.num_hidden_layers * heads * size * dtype.itemsize
        rows = nbytes // self.row_nbytes
        if rows < 4 * SCRATCH:
            needed = 4 * SCRATCH * self.row_nbytes
            raise UserError(
                "LM009", f"kv_cache of {nbytes} bytes holds {rows} tokens; give it {needed} bytes or more"
            )
        shape = (config.num_hidden_layers, 2, heads, rows, size)
        self.blocks = torch.empty(
            shape, dtype=dtype, device=device
        )  # [layers, k or v, kv heads, rows, head size]
        self.scratch = rows - SCRATCH
        self.spans = Spans(self.scratch)

    @property
    def nbytes(self) -> int:
        return self.blocks.nbytes
