"""Muon in float32: momentum made orthogonal, for the matrices between embedding and logits.

`torch.optim.Muon` does the same in bfloat16, which a processor without bfloat16 arithmetic runs
four times slower than float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

#: The quintic of Keller Jordan's Newton-Schulz iteration.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """The matrix with its singular values moved near 1; `matrix` is [rows, columns]."""
    a, b, c = COEFFICIENTS
    tall = matrix.size(0) > matrix.size(1)
    x: Tensor = matrix.T if tall else matrix  # [short, long]
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T  # [short, short]
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonalised momentum; takes matrices only."""

    def __init__(
        self, matrices: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.1
    ) -> None:
        """Each argument is as in `torch.optim.Muon`, `lr` as in its "original" scaling."""
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move each matrix by one update and shrink it by the weight decay."""
        for group in self.param_groups:
            for matrix in group["params"]:
                state = self.state[matrix]
                velocity = state.setdefault("velocity", torch.zeros_like(matrix))
                velocity.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonal(matrix.grad.lerp(velocity, group["momentum"]))
                scale = max(1.0, matrix.size(0) / matrix.size(1)) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * scale)
        return None if closure is None else closure()
