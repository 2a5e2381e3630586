"""The base model on its device: weights once, KV rows, slots, and one packed forward over all sequences."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from actors.lm.attention import Packed, Span
from actors.lm.fit import fit
from actors.lm.header import AdapterError
from actors.lm.rows import SCRATCH, Rows
from actors.lm.slots import Chunk, Slots
from actors.lm.weights import find_device, read_base
from placement.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

PROBE_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Part:
    """What one sequence puts into a batch: `tokens` at positions `first` and on, written behind KV row `row`.

    `wanted` asks for the logits after the last of them.
    """

    slot: int
    tokens: Sequence[int]
    first: int
    row: int
    wanted: bool


@dataclass(slots=True)
class Model:
    """A loaded base. One thread may call `forward` and `probe`; `slots.fill` may run beside them."""

    net: nn.Module
    device: torch.device
    dtype: torch.dtype
    vocab: int
    nbytes: int
    rows: Rows
    slots: Slots
    #: every GEMM of the base has a multiple of this many rows
    grain: int = 1
    #: the kernel of each Linear, and what the candidates took by "out x in", name and rows
    kernels: dict[str, str] = field(default_factory=dict)
    kernel_times_s: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    interlude: Callable[[], None] | None = None

    @classmethod
    def load(  # noqa: PLR0913 -- the options of a base, each by its name
        cls,
        path: str,
        *,
        device: str,
        dtype: str,
        slots: int,
        max_rank: int,
        kv_nbytes: int,
        deterministic: bool = False,
        kernels: str = "auto",
        slot_dtype: str = "float32",  # noqa: ARG003 -- read by the slots of the next change
    ) -> Model:
        """Load the safetensors checkpoint in `path` and reserve slots and KV rows.

        "auto" device is cuda:0 if there is one, else the CPU. "auto" dtype is the checkpoint's own on CUDA,
        and fp32 on the CPU: there it equals PEFT, and a CPU without 16-bit units is slower in bf16. `kernels`
        "auto" runs each Linear of an fp32 CPU base by the fastest library kernel (`fit`), with the weights
        of a 16-bit checkpoint kept in 16 bits; "torch" runs them as transformers does, so that logits equal
        PEFT's to the bit. What is measured holds for the threads that torch has now.

        Raises UserError LM009 if the device is not there or has no room, LM010 if the model cannot be loaded
        whole or needs what is not built, LM020 if `deterministic` cannot be kept here.
        """
        where, auto = find_device(device), kernels == "auto"
        net, config, kind = read_base(path, dtype, where, narrow=auto)
        text = config.get_text_config()
        try:
            nn.Module.to(net, where).train(mode=False).requires_grad_(requires_grad=False)
            fitted = fit(net, kind, auto=auto, deterministic=deterministic)
            nbytes = fitted.nbytes + sum(part.nbytes for part in {*net.parameters(), *net.buffers()})
            rows = Rows(text, kv_nbytes, kind, where)
            arena = Slots.install(net, slots, max_rank, where)
        except RuntimeError as error:
            told = f"base model {path}, its kv_cache and its slots cannot be put on {where}: {error}"
            raise UserError("LM009", told, "lower kv_cache, slots or max_rank, or free the device") from error
        model = cls(net, where, kind, text.vocab_size, nbytes, rows, arena)
        model.grain, model.kernels, model.kernel_times_s = fitted.grain, fitted.chosen, fitted.times_s
        model._hook_layers()
        model._check()
        return model

    def forward(self, parts: Sequence[Part], *, interlude: Callable[[], None] | None = None) -> Tensor:
        """Run one batch and return the logits of the wanted parts, [K, vocab], in the order of `parts`.

        A part of one token is a row, one of more is a chunk; how a row or a chunk is computed does not depend
        on what stands beside it. With a `grain` over 1 every GEMM of the base has a multiple of it as rows:
        then logits do not depend on the batch, to the bit. `interlude` is called before each decoder layer
        and may call `forward` for other sequences; what it raises ends this forward.
        """
        order = self.slots.order([part.slot if len(part.tokens) == 1 else None for part in parts])
        tokens: list[int] = []
        positions: list[int] = []
        rows: list[int] = []
        keep: list[int] = []
        spans: list[Span] = []
        singles: list[int] = []
        chunks: list[Chunk] = []
        for part in (parts[index] for index in order):
            start, stop = len(tokens), len(tokens) + len(part.tokens)
            tokens.extend(part.tokens)
            positions.extend(range(part.first, part.first + stop - start))
            rows.extend(range(part.row + part.first, part.row + part.first + stop - start))
            spans.append(Span(start, stop, part.row, part.first + stop - start))
            if stop - start == 1:
                singles.append(part.slot)
            else:
                chunks.append(Chunk(start, stop, part.slot))
            if part.wanted:
                keep.append(stop - 1)
        missing = -len(tokens) % self.grain
        packed = Packed(self._ids(rows + [self.rows.scratch] * missing), tuple(spans), self.rows)
        kept = keep + keep[-1:] * (-len(keep) % self.grain)
        heads = [parts[index].slot for index in order if parts[index].wanted]
        with self.slots.serving(singles, chunks, heads), self._between_layers(interlude):
            logits = self._run(tokens + [0] * missing, positions + [0] * missing, packed, kept)
        wanted = [index for index in order if parts[index].wanted]
        back = sorted(range(len(wanted)), key=wanted.__getitem__)
        return logits[: len(wanted)][back]

    def probe(self, slot: int) -> Tensor:
        """Return the logits of a short fixed prompt through `slot` (0: the base), [PROBE_TOKENS, vocab]."""
        tokens = [(index * 7919 + 1) % self.vocab for index in range(PROBE_TOKENS)]
        scratch, places = self.rows.scratch, range(PROBE_TOKENS)
        span = Span(0, PROBE_TOKENS, scratch, PROBE_TOKENS)
        packed = Packed(self._ids([scratch + place for place in places]), (span,), self.rows)
        with self.slots.serving([], [Chunk(0, PROBE_TOKENS, slot)], [slot] * PROBE_TOKENS):
            return self._run(tokens, list(places), packed, list(places))

    @contextmanager
    def _between_layers(self, interlude: Callable[[], None] | None) -> Iterator[None]:
        before, self.interlude = self.interlude, interlude
        try:
            yield
        finally:
            self.interlude = before

    def _hook_layers(self) -> None:
        """Have each decoder layer call the interlude first."""

        def call(*_: object) -> None:
            if self.interlude is not None:
                self.interlude()

        lists = [module for module in self.net.modules() if isinstance(module, nn.ModuleList)]
        for layer in max(lists, key=len, default=()):
            layer.register_forward_pre_hook(call)

    def _run(self, tokens: list[int], positions: list[int], packed: Packed, keep: list[int]) -> Tensor:
        out = self.net(
            input_ids=self._ids(tokens)[None],
            position_ids=self._ids(positions)[None],
            use_cache=False,
            logits_to_keep=self._ids(keep),
            packed=packed,
        )
        logits: Tensor = out.logits[0]
        return logits

    def _ids(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

    @torch.inference_mode()
    def _check(self) -> None:
        """Refuse a model with layers that bypass our attention (state spaces, latent attention)."""
        self.rows.blocks[:, :, :, -SCRATCH:] = torch.nan
        try:
            logits = self.probe(0)
        except (TypeError, RuntimeError, AttributeError) as error:
            raise UserError("LM010", f"{type(self.net).__name__} is not supported: {error}") from error
        written = self.rows.blocks[:, :, :, self.rows.scratch : self.rows.scratch + PROBE_TOKENS]
        if not bool(torch.isfinite(written).all()) or not bool(torch.isfinite(logits).all()):
            told = "not every layer keeps keys and values"
            raise UserError("LM010", f"{type(self.net).__name__} is not supported: {told}")


def prove(base: Tensor, through: Tensor, item: str) -> None:
    """Raise AdapterError unless the logits `through` a slot are finite and not those of the `base`."""
    if not bool(torch.isfinite(through).all()):
        raise AdapterError("ADP013", f"{item} drives the model to NaN or Inf on a short prompt")
    if torch.equal(base, through):
        raise AdapterError(
            "ADP037", f"{item} changes nothing: its answers equal the base model's", "is it trained?"
        )
