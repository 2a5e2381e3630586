"""Room for keys and values: token rows of every layer, given out as contiguous spans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from actors.lm.spans import Spans
from placement.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

#: Rows behind the last one that a request can get: for the probe prompt and for padding.
SCRATCH = 16

#: The keys and the values of each layer.
LayerViews: TypeAlias = "list[tuple[Tensor, Tensor]]"


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer keeps of a token: `heads` keys and as many values, of their sizes."""

    heads: int
    key_size: int
    value_size: int


class Rows:
    """Keys and values of every layer, reserved at once; and their spans.

    `layers[n]` are the keys and values of layer n, each [kv heads, rows, size]. In memory a head's rows stand
    together on the CPU, where heads are read one by one; on CUDA a token's heads do, as the kernels want it.
    """

    def __init__(
        self, shapes: Sequence[LayerShape], nbytes: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Reserve at most `nbytes`. Raises UserError LM009 if not even a short request fits."""
        sizes = [(shape.heads, size) for shape in shapes for size in (shape.key_size, shape.value_size)]
        self.row_nbytes = sum(heads * size for heads, size in sizes) * dtype.itemsize
        rows = nbytes // self.row_nbytes
        if rows < 4 * SCRATCH:
            needed = 4 * SCRATCH * self.row_nbytes
            raise UserError(
                "LM009", f"kv_cache of {nbytes} bytes holds {rows} tokens; give it {needed} bytes or more"
            )
        self._blocks: list[Tensor] = []  # one for each size: [count, 1, kv heads, rows, size]
        #: (block, index in it) of each layer's keys, values, keys of the next …
        self._places: list[tuple[int, int]] = [(0, 0)] * len(sizes)
        for heads, size in sorted(set(sizes)):
            members = [place for place, each in enumerate(sizes) if each == (heads, size)]
            for index, place in enumerate(members):
                self._places[place] = len(self._blocks), index
            shape = (len(members), 1, heads, rows, size)
            if device.type == "cuda":
                block = torch.empty((shape[0], 1, rows, heads, size), dtype=dtype, device=device)
                self._blocks.append(block.transpose(2, 3))
            else:
                self._blocks.append(torch.empty(shape, dtype=dtype, device=device))
        self.layers: LayerViews = [(keys[0], values[0]) for keys, values in self.views(0, rows)]
        self.scratch = rows - SCRATCH
        self.spans = Spans(self.scratch)

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in self._blocks)

    def views(self, start: int, count: int) -> LayerViews:
        """Return rows [start, start + count) of each layer's keys and values, [1, kv heads, count, size]."""
        cut = [block.narrow(3, start, count).unbind(0) for block in self._blocks]
        views = [cut[block][index] for block, index in self._places]
        return list(zip(views[::2], views[1::2], strict=True))

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy `count` rows of all layers from `source` on to `target` on; the two must not overlap."""
        for block in self._blocks:
            block.narrow(3, target, count).copy_(block.narrow(3, source, count))
