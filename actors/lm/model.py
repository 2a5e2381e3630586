"""The base model on its device: weights once, KV rows, slots, and one packed forward over all sequences."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from actors.lm.attention import Packed, Span, reading
from actors.lm.experts import pad_experts
from actors.lm.families import survey
from actors.lm.fit import fit
from actors.lm.header import AdapterError
from actors.lm.measured import Measured, conditions, recall, settle
from actors.lm.moulds import Moulds
from actors.lm.recordings import cuda_graphs
from actors.lm.rows import SCRATCH, Rows
from actors.lm.slots import Chunk, Head, Slots
from actors.lm.weights import find_device, read_base
from placement.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from actors.lm.measured import Times
    from actors.lm.recordings import Capture

PROBE_TOKENS = 8
#: How far logits of the same tokens, read at once or in pieces, may be apart, as a share of their spread.
ALIKE = 0.01
ALIKE_IN_16_BIT = 0.3


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
    """A loaded base. One thread may call `forward` and `probe`; `slots.fill`, `seat` may run beside them."""

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
    kernel_times_s: Times = field(default_factory=dict)
    #: whether that, and the ways of `slots`, were measured now or remembered; and what could not be kept
    measured: str = "measured"
    deterministic: bool = False
    #: runs decode steps, where they can be recorded
    moulds: Moulds | None = None

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
        slot_dtype: str = "float32",
        kept: str = "",
    ) -> Model:
        """Load the safetensors checkpoint in `path` and reserve slots and KV rows.

        "auto" device is cuda:0 if there is one, else the CPU. "auto" dtype is the checkpoint's own on CUDA,
        and fp32 on the CPU: there it equals PEFT, and a CPU without 16-bit units is slower in bf16. `kernels`
        "auto" runs each Linear of an fp32 CPU base by the fastest library kernel (`fit`), with the weights
        of a 16-bit checkpoint kept in 16 bits; "torch" runs them as transformers does, so that logits equal
        PEFT's to the bit. On CUDA "auto" is to record decode steps (`record`). What is measured holds for the
        threads that torch has now; it is kept in the folder `kept`, if one is named, and the next start
        chooses the same. `slot_dtype` is that of images: float32, or bfloat16, rounded.

        Raises UserError LM009 if the device is not there or has no room, LM010 if the model cannot be loaded
        whole or needs what is not built, LM023 if `deterministic` cannot be kept here.
        """
        where, auto = find_device(device), kernels == "auto"
        net, config, kind = read_base(path, dtype, where, narrow=auto)
        try:
            nn.Module.to(net, where).train(mode=False).requires_grad_(requires_grad=False)
            if deterministic:
                pad_experts(net)
            asked = {"kernels": kernels, "deterministic": deterministic, "max_rank": max_rank}
            under = conditions(net, kind, where, slot_dtype=slot_dtype, **asked)
            folder = Path(kept).expanduser() if kept else None
            known = recall(folder, under)
            fitted = fit(net, kind, auto=auto, deterministic=deterministic, known=known.times_s)
            nbytes = fitted.nbytes + sum(part.nbytes for part in {*net.parameters(), *net.buffers()})
            rows = Rows(survey(net, config), kv_nbytes, kind, where)
            exact = deterministic or where.type == "cpu"
            arena = Slots.install(
                net, slots, max_rank, where, getattr(torch, slot_dtype), exact=exact, known=known.ways
            )
        except RuntimeError as error:
            told = f"base model {path}, its kv_cache and its slots cannot be put on {where}: {error}"
            raise UserError("LM009", told, "lower kv_cache, slots or max_rank, or free the device") from error
        model = cls(net, where, kind, config.get_text_config().vocab_size, nbytes, rows, arena)
        model.grain, model.kernels, model.kernel_times_s = fitted.grain, fitted.chosen, fitted.times_s
        model.measured = settle(folder, under, known, Measured(fitted.times_s, arena.chosen))
        model.deterministic = deterministic
        model._check()
        if auto and where.type == "cuda":
            model.record(cuda_graphs(where))
        return model

    def forward(self, parts: Sequence[Part], *, interlude: Callable[[], None] | None = None) -> Tensor:
        """Run one batch and return the logits of the wanted parts, [K, vocab], in the order of `parts`.

        A part of one token is a row, one of more is a chunk; how a row or a chunk is computed does not depend
        on what stands beside it. With a `grain` over 1 every GEMM of the base has a multiple of it as rows:
        then logits do not depend on the batch, to the bit. `interlude` is called before each decoder layer
        and may call `forward` for other sequences; what it raises ends this forward.
        """
        shadows = self.slots.shadows
        if not shadows or not any(part.slot in shadows for part in parts):
            return self._forward(self.net, parts, interlude)
        return self._forward_each(parts, interlude)

    def _forward_each(self, parts: Sequence[Part], interlude: Callable[[], None] | None) -> Tensor:
        """Run the base's parts and those of each shadow in forwards of their own.

        Rows of a shadow share what its own GEMMs do, so a deterministic engine runs them one by one.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        for index, part in enumerate(parts):
            shadow = part.slot if part.slot in self.slots.shadows else 0
            alone = index + 1 if shadow and self.deterministic else 0
            groups.setdefault((shadow, alone), []).append(index)
        places: list[int] = []
        logits: list[Tensor] = []
        for (shadow, _), indexes in groups.items():
            net = self.slots.shadows[shadow] if shadow else self.net
            logits.append(self._forward(net, [parts[index] for index in indexes], interlude))
            places.extend(index for index in indexes if parts[index].wanted)
        return torch.cat(logits)[sorted(range(len(places)), key=places.__getitem__)]

    def _forward(self, net: nn.Module, parts: Sequence[Part], interlude: Callable[[], None] | None) -> Tensor:
        moulds = self.moulds
        if moulds is not None and interlude is None and net is self.net and moulds.fit(parts):
            return moulds.run(parts)
        singles = [index for index, part in enumerate(parts) if len(part.tokens) == 1]
        order = [singles[place] for place in self.slots.plan([parts[index].slot for index in singles]).order]
        rows_slots = [parts[index].slot for index in order]
        if len(order) < len(parts):
            order.extend(index for index, part in enumerate(parts) if len(part.tokens) > 1)
        tokens: list[int] = []
        positions: list[int] = []
        rows: list[int] = []
        spans: list[Span] = []
        chunks: list[Chunk] = []
        last = [0] * len(parts)
        for index in order:
            part = parts[index]
            start, count, first = len(tokens), len(part.tokens), part.first
            tokens.extend(part.tokens)
            positions.extend(range(first, first + count))
            rows.extend(range(part.row + first, part.row + first + count))
            spans.append(Span(start, start + count, part.row, first + count))
            if count > 1:
                chunks.append(Chunk(start, start + count, part.slot))
            last[index] = start + count - 1
        missing = -len(tokens) % self.grain
        written = self._ids(rows + [self.rows.scratch] * missing)
        packed = Packed(written, tuple(spans), self.rows, interlude)
        # Wanted rows reach the head in the order of `parts`: their logits, long as they are, stay in place.
        keep = [last[index] for index, part in enumerate(parts) if part.wanted]
        heads = [Head(part.slot, len(part.tokens) > 1) for part in parts if part.wanted]
        kept = keep + keep[-1:] * (-len(keep) % self.grain)
        with self.slots.serving(rows_slots, chunks, heads):
            logits = self._run(net, tokens + [0] * missing, positions + [0] * missing, packed, kept)
        return logits[: len(keep)]

    def probe(self, slot: int) -> Tensor:
        """Return the logits of a short fixed prompt through `slot` (0: the base), [PROBE_TOKENS, vocab]."""
        tokens = [(index * 7919 + 1) % self.vocab for index in range(PROBE_TOKENS)]
        scratch, places = self.rows.scratch, range(PROBE_TOKENS)
        span = Span(0, PROBE_TOKENS, scratch, PROBE_TOKENS)
        packed = Packed(self._ids([scratch + place for place in places]), (span,), self.rows)
        net = self.slots.shadows.get(slot, self.net)
        heads = [Head(slot, sliced=False)] * PROBE_TOKENS
        with self.slots.serving([], [Chunk(0, PROBE_TOKENS, slot)], heads):
            return self._run(net, tokens, list(places), packed, list(places))

    def seat(self, slot: int, shadow: nn.Module) -> None:
        """Have the net `shadow` serve the free `slot` until it is emptied; it shares weights and KV rows."""
        self.slots.empty(slot)
        self.slots.shadows[slot] = shadow

    @torch.inference_mode()
    def record(self, capture: Capture) -> None:
        """Have decode steps run in fixed shapes and recorded by `capture`, if a trial shows that they may be.

        Else they are run as before, and `decoding` says why.
        """
        self.moulds = Moulds(self.net, self.slots, self.rows, self.device, self.grain, capture)
        scratch, places = self.rows.scratch, range(0, 6, 2)
        first, then = (
            [Part(0, [place + at], at, scratch + place, wanted=True) for place in places] for at in (0, 1)
        )
        self.moulds.trial(first, then)

    @property
    def decoding(self) -> str:
        """Say how decode steps are run where they may be recorded; "" elsewhere."""
        return "" if self.moulds is None else self.moulds.told

    def _run(
        self, net: nn.Module, tokens: list[int], positions: list[int], packed: Packed, keep: list[int]
    ) -> Tensor:
        with reading(packed):
            out = net(
                input_ids=self._ids(tokens)[None],
                position_ids=self._ids(positions)[None],
                use_cache=False,
                logits_to_keep=self._ids(keep),
            )
        logits: Tensor = out.logits[0]
        return logits

    def _ids(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

    @torch.inference_mode()
    def _check(self) -> None:
        """Refuse a model whose answer depends on anything but its sequence's tokens, keys and values.

        The same tokens are read at once, and in three forwards beside another sequence. Rows that were not
        written hold NaN meanwhile.
        """
        family, (first, then, last) = type(self.net).__name__, (4, 7, PROBE_TOKENS)
        tokens = [(index * 7919 + 1) % self.vocab for index in range(PROBE_TOKENS)]
        for layer in self.rows.layers:
            for block in layer:
                block[:, : 2 * SCRATCH] = block[:, self.rows.scratch :] = torch.nan
        try:
            whole = self.probe(0)[[first - 1, then - 1, last - 1]]
            pieces = []
            for start, stop in ((0, first), (first, then), (then, last)):
                beside = Part(0, tokens[start + 1 : stop + 1] or tokens[:1], start, SCRATCH, wanted=False)
                part = Part(0, tokens[start:stop], start, 0, wanted=True)
                pieces.append(self.forward([beside, part]))
        except (TypeError, RuntimeError, AttributeError, LookupError) as error:
            raise UserError("LM010", f"{family} is not supported: {error}") from error
        read = torch.cat(pieces).float()
        if not bool(torch.isfinite(whole).all() and torch.isfinite(read).all()):
            raise UserError("LM010", f"{family} is not supported: a short prompt drives it to NaN or Inf")
        off = (read - whole).norm(dim=1) / (whole - whole.mean(1, keepdim=True)).norm(dim=1)
        if float(off.max()) > (ALIKE if self.dtype.itemsize > 2 else ALIKE_IN_16_BIT):
            told = "its answers change when a prompt is cut or has neighbours"
            raise UserError("LM010", f"{family} is not supported: {told}")


def prove(base: Tensor, through: Tensor, item: str) -> None:
    """Raise AdapterError unless the logits `through` a slot are finite and not those of the `base`."""
    if not bool(torch.isfinite(through).all()):
        raise AdapterError("ADP013", f"{item} drives the model to NaN or Inf on a short prompt")
    if torch.equal(base, through):
        raise AdapterError(
            "ADP037", f"{item} changes nothing: its answers equal the base model's", "is it trained?"
        )
