"""Room for keys and values: token rows in one block per layer, given out as contiguous spans."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from actors.lm.spans import Spans
from placement.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

#: Rows behind the last one that a request can get: for the probe prompt and for padding.
SCRATCH = 16


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

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy the keys and values of `count` rows of every layer."""
        self.blocks[:, :, :, target : target + count] = self.blocks[:, :, :, source : source + count]
