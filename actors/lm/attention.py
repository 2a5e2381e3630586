"""Attention over a packed batch: each sequence sees its own key and value rows and nothing else."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from actors.lm.varlen import Flash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

    from actors.lm.rows import LayerViews, Rows

NAME = "tierce"


@dataclass(frozen=True, slots=True)
class Span:
    """One sequence in a batch: queries [start, stop) of the batch, keys and values at [row, row + length)."""

    start: int
    stop: int
    row: int
    length: int


@dataclass(frozen=True, slots=True)
class Form:
    """How a layer attends: `window` counts the token itself, `softcap` bounds scores, `sinks` is [heads]."""

    scaling: float | None = None
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None

    @property
    def eager(self) -> bool:
        """Whether no library kernel computes it."""
        return self.softcap is not None or self.sinks is not None


@dataclass(frozen=True, slots=True)
class Sight:
    """What the queries of one span may see: rows of every layer, and a bias where causality is not enough."""

    span: Span
    layers: LayerViews
    bias: Tensor | None  # [queries, rows], 0 or -inf
    causal: bool


class Reader(Protocol):
    """What attention layers call while a forward runs; see `reading`."""

    def read(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, form: Form) -> Tensor:
        """Take keys and values [1, kv heads, N, size]; return [1, N, heads, value size]."""


_READER: ContextVar[Reader] = ContextVar("reader")


@contextmanager
def reading(reader: Reader) -> Iterator[None]:
    """Have every attention layer of a forward call `reader`. Forwards may nest: the inner one goes first."""
    token = _READER.set(reader)
    try:
        yield
    finally:
        _READER.reset(token)


class Packed:
    """One forward over N tokens: where each is written (`rows`, [N]), what each span sees. Single use.

    Spans of one query come first; tokens behind the last span are padding and get zeros.
    `interlude` is called by each layer before it writes or reads, and may run other forwards. `flashes` are
    the kernel's calls for these spans, where they stand on the device already.
    """

    def __init__(
        self,
        rows: Tensor,
        spans: tuple[Span, ...],
        store: Rows,
        interlude: Callable[[], None] | None = None,
        flashes: Sequence[Flash] = (),
    ) -> None:
        self.rows = rows
        self.spans = spans
        self.store = store
        self.interlude = interlude
        #: whether a layer was given where its sequences stand by the host, and not by tensors of the device
        self.on_host = False
        self._singles = sum(1 for _ in takewhile(lambda span: span.stop - span.start == 1, spans))
        #: by window and whether the layer is eager: layers of one kind share views and biases
        self._sights: dict[tuple[int | None, bool], list[Sight]] = {}
        self._flashes = [*flashes]

    def read(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, form: Form) -> Tensor:
        """Write keys and values to their rows, attend per sequence."""
        if self.interlude is not None:
            self.interlude()
        index: int = module.layer_idx  # type: ignore[assignment]
        keys, values = self.store.layers[index]
        keys.index_copy_(1, self.rows, key[0])
        values.index_copy_(1, self.rows, value[0])
        if not form.eager and Flash.fits(query, value):
            flash = [each.attend(query, keys, values, form.scaling, form.window) for each in self.flashes()]
            return self._whole(flash, query.shape[2])
        self.on_host = True
        sights = self._see(form, query)
        singles = 0 if form.eager else self._singles
        parts = [_attend_rows(query, key.shape[1], sights[:singles], index, form)] if singles else []
        parts.extend(_attend_chunk(query, sight, index, form) for sight in sights[singles:])
        return self._whole(parts, query.shape[2])

    def flashes(self) -> list[Flash]:
        """Return the calls of the kernel for this batch: its rows, and its chunks."""
        if not self._flashes:
            kinds = self.spans[: self._singles], self.spans[self._singles :]
            self._flashes = [Flash.of(spans, self.rows.device) for spans in kinds if spans]
        return self._flashes

    def _whole(self, parts: list[Tensor], tokens: int) -> Tensor:
        missing = tokens - self.spans[-1].stop
        if missing:
            parts.append(parts[0].new_zeros((1, missing, *parts[0].shape[2:])))
        return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, 1)

    def _see(self, form: Form, query: Tensor) -> list[Sight]:
        kind = form.window, form.eager
        sights = self._sights.get(kind)
        if sights is None:
            sights = self._sights[kind] = [self._sight(span, form, query) for span in self.spans]
        return sights

    def _sight(self, span: Span, form: Form, query: Tensor) -> Sight:
        queries, window, first = span.stop - span.start, form.window, 0
        if window is not None:
            first = max(0, span.length - queries - window + 1)
        seen = span.length - first
        layers = self.store.views(span.row + first, seen)
        if queries == 1:
            return Sight(span, layers, None, causal=False)
        if seen == queries and (window is None or window >= seen) and not form.eager:
            return Sight(span, layers, None, causal=True)
        at = torch.arange(seen, device=query.device)
        ago = at[seen - queries :, None] - at
        hidden = ago < 0 if window is None else (ago < 0) | (ago >= window)
        bias = query.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
        return Sight(span, layers, bias, causal=False)


def _attend_rows(query: Tensor, groups: int, sights: list[Sight], index: int, form: Form) -> Tensor:
    """Attend the first queries of the batch, one of each span; return [1, len(sights), heads, value size].

    In 16 bit the heads that share keys stand as the queries of one head: products of one row are five times
    slower there. In fp32 that gains nothing, and as it is the sums are those of transformers to the bit.
    """
    heads, size, count = query.shape[1], query.shape[3], len(sights)
    together = heads // groups if query.dtype.itemsize == 2 else 1
    tall = query[0, :, :count].transpose(0, 1).reshape(count, 1, heads // together, together, size)
    shared, outs = heads // together != groups, []
    for single, sight in zip(tall.unbind(0), sights, strict=True):
        keys, values = sight.layers[index]
        outs.append(scaled_dot_product_attention(single, keys, values, scale=form.scaling, enable_gqa=shared))
    return torch.cat(outs).view(1, count, heads, -1)


def _attend_chunk(query: Tensor, sight: Sight, index: int, form: Form) -> Tensor:
    """Attend the queries of one span; return [1, queries, heads, value size]."""
    keys, values = sight.layers[index]
    own = query[:, :, sight.span.start : sight.span.stop]
    if form.eager:
        return _attend_eager(own, keys, values, sight.bias, form)
    out = scaled_dot_product_attention(
        own,
        keys,
        values,
        attn_mask=sight.bias,
        is_causal=sight.causal,
        scale=form.scaling,
        enable_gqa=own.shape[1] != keys.shape[1],
    )
    return out.transpose(1, 2)


def _attend_eager(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, form: Form) -> Tensor:
    """Attend with soft-capped scores, or with one more score per head (its sink) that has no value."""
    _, heads, queries, size = query.shape
    groups = keys.shape[1]
    tall = query.reshape(groups, heads // groups, queries, size)
    scores = torch.matmul(tall, keys[0, :, None].transpose(2, 3))  # [kv heads, heads of each, queries, rows]
    scores = scores * (size**-0.5 if form.scaling is None else form.scaling)
    if form.softcap is not None:
        scores = torch.tanh(scores / form.softcap) * form.softcap
    if bias is not None:
        scores = scores + bias
    if form.sinks is not None:
        sinks = form.sinks.to(scores.dtype).view(groups, -1, 1, 1).expand(-1, -1, queries, 1)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)[..., : keys.shape[2]]
    out = torch.matmul(weights, values[0, :, None]).view(1, heads, queries, -1)
    return out.transpose(1, 2)


def attend(  # noqa: PLR0913 -- transformers' own signature
    module: nn.Module,
    query: Tensor,  # [1, heads, N, size]
    key: Tensor,  # [1, kv heads, N, size]
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 -- always None, see `register`
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend by the running `Reader`; return [1, N, heads, value size].

    Called by every attention layer of a transformers model whose config names this function.
    """
    form = Form(scaling, sliding_window or None, softcap, s_aux)
    return _READER.get().read(module, query, key, value, form), None


def register() -> None:
    """Make the function known to transformers by its name, with no mask; safe to call again."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)
