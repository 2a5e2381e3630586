"""Mixtures of experts whose tokens do not feel each other: every GEMM of an expert has a multiple of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, ExpertsInterface

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "tierce"
#: Rows of an expert's GEMM: from here on, a row's sum does not depend on how often this many rows there are.
ROWS = 16


def padded_experts(module: nn.Module, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Compute x [N, hidden] through the experts `chosen` [N, k], weighted by `weights` [N, k].

    Transformers' grouped GEMMs, with rows of zeros added until each expert has a multiple of ROWS.
    """
    experts: int = module.num_experts  # type: ignore[assignment]
    own = chosen.reshape(-1)  # [N k]
    counts = torch.bincount(own, minlength=experts)
    rows = -(-counts // ROWS) * ROWS
    order = torch.argsort(own, stable=True)
    before = (rows.cumsum(0) - rows) - (counts.cumsum(0) - counts)  # of each expert: padding before its rows
    places = torch.empty_like(order)
    places[order] = torch.arange(order.numel(), device=x.device) + before[own[order]]
    expert = torch.repeat_interleave(torch.arange(experts, device=x.device), rows)
    tall = x.new_zeros((expert.numel(), x.shape[1]))
    tall[places] = x.repeat_interleave(chosen.shape[1], 0)
    ones = weights.new_ones((expert.numel(), 1))
    out: Tensor = ALL_EXPERTS_FUNCTIONS["grouped_mm"](module, tall, expert[:, None], ones)[places]
    mixed: Tensor = (out.view(*chosen.shape, -1) * weights[..., None]).sum(1)
    return mixed.to(x.dtype)


def pad_experts(net: nn.Module) -> None:
    """Have the experts of `net`, if it has any, compute by `padded_experts`."""
    ExpertsInterface.register(NAME, padded_experts)
    if isinstance(net, PreTrainedModel) and any(hasattr(module, "num_experts") for module in net.modules()):
        net.set_experts_implementation(NAME)
