"""What this process may take of a GPU: a wrong estimate then fails here, and not in a neighbour's process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from actors.lm.weights import find_device

if TYPE_CHECKING:
    from collections.abc import Mapping


def keep_within(device: str, vram: int | Mapping[str, int] | None, cuda: Any = torch.cuda) -> float | None:
    """Have torch refuse this process more of a CUDA `device` than its budget; return the share of its memory.

    `vram` is the budget in bytes, or those of several devices by name. Returns None, and limits nothing, on a
    CPU and where no budget is told. `cuda` is torch's. Raises UserError LM009 if the device is not here.
    """
    where = find_device(device)
    if where.type != "cuda":
        return None
    index = where.index or 0
    budget = vram if vram is None or isinstance(vram, int) else vram.get(f"cuda:{index}")
    if budget is None:
        return None
    share = min(1.0, budget / int(cuda.get_device_properties(index).total_memory))
    cuda.set_per_process_memory_fraction(share, index)
    return share
