"""Library kernels for the base's Linears on a CPU, and the modules that run them in place of torch's own."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import torch
from torch import nn
from torch.nn.functional import linear as torch_linear

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

#: Most elements of one packed block. FBGEMM packs larger ones four times slower per element.
BLOCK = 4 << 20
#: Elements that are widened at a time while a weight is checked: they stay in the cache.
SLICE = 1 << 20
#: Powers of two that neither overflow nor vanish in fp32 when they are taken out of a product again.
MOST_POWER = 100
FP16_POWER = 16
#: Most rows of one call. oneDNN compiles a kernel for each count of rows and keeps the last 1024 of them.
MOST_ROWS = 120


class Kernel(Protocol):
    """x [n, in] in fp32 times one weight: [n, out]. Any thread; nothing changes."""

    name: ClassVar[str]
    #: whether it can hold any weight
    any_weight: ClassVar[bool]
    nbytes: int

    @classmethod
    def pack(cls, weight: Tensor) -> Self | None:
        """Keep `weight` [out, in], of any float dtype, without loss; None if this kernel cannot."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def dense(self) -> Tensor:
        """Return the weight, [out, in] in fp32, to the bit."""


class Half:
    """FBGEMM: weights in fp16 times a power of two, activations and sums in fp32.

    A weight in bf16 spans 8 bits; fp16 holds these exactly over 33 binades, and the power puts the largest
    weight at their upper end.
    """

    name: ClassVar[str] = "fbgemm-fp16"
    any_weight: ClassVar[bool] = False

    def __init__(self, blocks: Sequence[Any], power: int, nbytes: int) -> None:
        self.blocks = blocks
        self.scale = 2.0**-power
        self.nbytes = nbytes

    @classmethod
    def pack(cls, weight: Tensor) -> Self | None:
        power = exact_power(weight)
        if power is None:
            return None
        pack = torch.ops.quantized.linear_prepack_fp16
        blocks = [pack((part.float() * 2.0**power).contiguous(), None) for part in _blocks(weight)]
        return cls(blocks, power, 2 * weight.numel())

    def __call__(self, x: Tensor) -> Tensor:
        parts = [torch.ops.quantized.linear_dynamic_fp16(x, block) for block in self.blocks]
        y: Tensor = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return y if self.scale == 1 else y.mul_(self.scale)

    def dense(self) -> Tensor:
        parts = [torch.ops.quantized.linear_unpack_fp16(block)[0] for block in self.blocks]
        return torch.cat(parts).mul_(self.scale)


class Full:
    """oneDNN: weights in fp32, in the order in which its kernels read them."""

    name: ClassVar[str] = "onednn-fp32"
    any_weight: ClassVar[bool] = True
    #: The count of rows that the order is made for.
    ROWS = 16

    def __init__(self, blocks: Sequence[Tensor], nbytes: int) -> None:
        self.blocks = blocks
        self.nbytes = nbytes

    @classmethod
    def pack(cls, weight: Tensor) -> Self:
        pack = torch.ops.mkldnn._reorder_linear_weight  # noqa: SLF001 -- torch.compile's own prepacking
        blocks = [pack(part.float().contiguous(), cls.ROWS) for part in _blocks(weight)]
        return cls(blocks, 4 * weight.numel())

    def __call__(self, x: Tensor) -> Tensor:
        run = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 -- as above
        parts = [run(x, block, None, "none", [], "") for block in self.blocks]
        y: Tensor = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return y

    def dense(self) -> Tensor:
        return torch.cat([block.to_dense() for block in self.blocks])


class Dense:
    """torch's own: weights in fp32 as they are. It shares a weight that is fp32 already."""

    name: ClassVar[str] = "torch"
    any_weight: ClassVar[bool] = True

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.nbytes = weight.nbytes

    @classmethod
    def pack(cls, weight: Tensor) -> Self:
        return cls(weight.detach().float())

    def __call__(self, x: Tensor) -> Tensor:
        return torch_linear(x, self.weight)

    def dense(self) -> Tensor:
        return self.weight


def library() -> tuple[type[Kernel], ...]:
    """Return the kernels that run on this CPU with this build of torch, the ones to prefer first."""
    kinds: tuple[type[Half | Full | Dense], ...] = (Half, Full, Dense)
    return tuple(kind for kind in kinds if _runs(kind))


def _runs(kind: type[Half | Full | Dense]) -> bool:
    try:
        kernel = kind.pack(torch.ones(16, 16))
        return kernel is not None and kernel(torch.ones(2, 16)).shape == (2, 16)
    except (RuntimeError, AttributeError):  # no such operator, or not for this CPU
        return False


def exact_power(weight: Tensor) -> int | None:
    """Return the power of two at which every element of `weight` is an fp16, None if there is none."""
    parts = torch.split(weight.detach(), max(1, SLICE // weight.shape[1]))
    largest = max(float(part.abs().max()) for part in parts)
    if not math.isfinite(largest):
        return None
    exponent = (
        int(torch.frexp(torch.tensor(largest, dtype=torch.float64)).exponent) if largest else FP16_POWER
    )
    power = FP16_POWER - exponent
    if not -MOST_POWER <= power <= MOST_POWER:
        return None
    for part in parts:
        scaled = part.float() * 2.0**power
        if not torch.equal(scaled.half().float(), scaled):
            return None
    return power


def _blocks(weight: Tensor) -> Sequence[Tensor]:
    """Split a weight [out, in] into blocks of outputs, of equal size but for a rest."""
    return torch.split(weight.detach(), block_rows(weight.shape[0], weight.shape[1]))


def block_rows(out_features: int, in_features: int) -> int:
    """Return how many outputs one packed block of such a weight has."""
    count = -(-out_features * in_features // BLOCK)
    return min(out_features, -(-out_features // count // 16) * 16)


class Cuts:
    """Into how many rows a batch is cut for a kernel.

    `counts` are those at which it gives a row the same bits; empty: it need not, and any up to MOST_ROWS is
    right. A rest that none of them fits is run as it is.
    """

    def __init__(self, counts: Sequence[int] = ()) -> None:
        self.counts = tuple(sorted(counts, reverse=True))
        self._known: dict[int, list[int]] = {}

    def __call__(self, rows: int) -> list[int]:
        if rows not in self._known:
            self._known[rows] = self._cut(rows)
        return self._known[rows]

    def _cut(self, rows: int) -> list[int]:
        cut: list[int] = []
        while rows:
            fits = (count for count in self.counts or (MOST_ROWS,) if count <= rows)
            cut.append(next(fits, rows))
            rows -= cut[-1]
        return cut


class PackedLinear(nn.Linear):
    """A Linear whose weight is held by a kernel.

    `weight` unpacks it anew at each look; `bias` is a parameter. For inference only. A deep copy is a plain
    Linear, which may be changed and trained.
    """

    def __init__(self, linear: nn.Linear, kernel: Kernel, cuts: Cuts) -> None:
        nn.Module.__init__(self)
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.kernel = kernel
        self.cuts = cuts
        held = dict(linear.named_parameters()).get("bias")
        if held is not None:
            held = nn.Parameter(held.detach().float(), requires_grad=False)
        self.register_parameter("bias", held)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self.kernel.dense()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        cuts = self.cuts(len(rows))
        if len(cuts) > 1:
            y = torch.cat([self.kernel(part) for part in torch.split(rows, cuts)])
        else:
            y = self.kernel(rows)
        if self.bias is not None:
            y.add_(self.bias)
        return y.view(*x.shape[:-1], self.out_features)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Linear:
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        plain.weight = nn.Parameter(self.weight.clone(), requires_grad=False)
        if self.bias is not None:
            plain.bias = copy.deepcopy(self.bias, memo)
        return plain.train(self.training)


class CutLinear(nn.Linear):
    """torch's own Linear, run in counts of rows at which it gives a row the same bits."""

    def __init__(self, linear: nn.Linear, cuts: Cuts) -> None:
        nn.Module.__init__(self)
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.weight = linear.weight
        self.bias = linear.bias
        self.cuts = cuts

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        parts = torch.split(rows, self.cuts(len(rows)))
        y = torch.cat([torch_linear(part, self.weight, self.bias) for part in parts])
        return y.view(*x.shape[:-1], self.out_features)


class WideEmbedding(nn.Embedding):
    """A table kept in 16 bits; what is looked up comes out in fp32. A deep copy is a plain table in fp32."""

    def __init__(self, table: nn.Embedding) -> None:
        nn.Module.__init__(self)
        self.num_embeddings = table.num_embeddings
        self.embedding_dim = table.embedding_dim
        self.padding_idx = table.padding_idx
        self.max_norm = table.max_norm
        self.norm_type = table.norm_type
        self.scale_grad_by_freq = table.scale_grad_by_freq
        self.sparse = table.sparse
        # a copy, because a table that was read by mmap would keep the whole file mapped
        self.weight = nn.Parameter(table.weight.detach().clone(), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's own name
        return super().forward(input).float()

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Embedding:
        weight = self.weight.detach().float()
        plain = nn.Embedding(
            self.num_embeddings, self.embedding_dim, padding_idx=self.padding_idx, device="meta"
        )
        plain.weight = nn.Parameter(weight, requires_grad=False)
        return plain
