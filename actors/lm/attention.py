"""Attention over a packed batch: each sequence sees its own key and value rows and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from placement.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from actors.lm.rows import Rows

NAME = "tierce"


@dataclass(frozen=True, slots=True)
class Span:
    """One sequence in a batch: queries [start, stop) of the batch, keys and values at [row, row + length)."""

    start: int
    stop: int
    row: int
    length: int


@dataclass(frozen=True, slots=True)
class Packed:
    """What attention needs to know of N tokens: where each is written (`rows`, [N]) and what it may see."""

    rows: Tensor
    spans: tuple[Span, ...]
    store: Rows


def attend(  # noqa: PLR0913 -- transformers' own signature
    module: nn.Module,
    query: Tensor,  # [1, heads, N, head size]
    key: Tensor,  # [1, kv heads, N, head size]
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 -- always None, see `register`
    *,
    packed: Packed,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Write keys and values to their rows, attend per sequence; return [1, N, heads, head size].

    Called by every attention layer of a transformers model whose config names this function.
    """
    if softcap is not None or s_aux is not None:
        raise UserError(
            "LM010", f"{type(module).__name__} needs soft-capped or sink attention, which is not built"
        )
    keys, values = packed.store.blocks[module.layer_idx]  # type: ignore[index]
    keys.index_copy_(1, packed.rows, key[0])
    values.index_copy_(1, packed.rows, value[0])
    out = torch.zeros_like(query)
    for span in packed.spans:
        first, mask = _visible(span, sliding_window, query.device)
        rows = slice(span.row + first, span.row + span.length)
        out[:, :, span.start : span.stop] = scaled_dot_product_attention(
            query[:, :, span.start : span.stop],
            keys[None, :, rows],
            values[None, :, rows],
            attn_mask=mask,
            is_causal=mask is None and span.stop - span.start > 1,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    return out.transpose(1, 2).contiguous(), None


def _visible(span: Span, window: int | None, device: torch.device) -> tuple[int, Tensor | None]:
    """Return the first visible row of the span, and a mask where causality alone does not say it all."""
    queries, first = span.stop - span.start, 0
    if window is not None:
        first = max(0, span.length - queries - window + 1)
    seen = span.length - first
    if queries == 1 or (seen == queries and (window is None or window >= seen)):
        return first, None
    ago = torch.arange(seen - queries, seen, device=device)[:, None] - torch.arange(seen, device=device)
    return first, (ago >= 0) if window is None else (ago >= 0) & (ago < window)


def register() -> None:
    """Make the function known to transformers by its name, with no mask; safe to call again."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)
