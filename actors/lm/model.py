"""The base model on its device: weights once, KV rows, slots, and one packed forward over all sequences."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from actors.lm import attention
from actors.lm.attention import Packed, Span
from actors.lm.header import AdapterError
from actors.lm.rows import SCRATCH, Rows
from actors.lm.slots import Segment, Slots
from placement.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor
    from transformers import PretrainedConfig

PROBE_TOKENS = 8
#: What reading a checkpoint raises when its files are missing, cut, of another architecture or quantised.
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)
NAMED = 5


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

    @classmethod
    def load(cls, path: str, *, device: str, dtype: str, slots: int, max_rank: int, kv_nbytes: int) -> Model:
        """Load the safetensors checkpoint in `path` and reserve slots and KV rows.

        "auto" device is cuda:0 if there is one, else the CPU. "auto" dtype is the checkpoint's own on CUDA,
        and fp32 on the CPU: there it equals PEFT to the bit, and the small GEMMs of LoRA cost more in bf16
        than in fp32. Raises UserError LM009 if the device is not there or has no room, LM010 if the model
        cannot be loaded whole or needs what is not built.
        """
        attention.register()
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        where = _device(device)
        net, config, kind = _read(path, dtype, where)
        text = config.get_text_config()
        try:
            nn.Module.to(net, where).train(mode=False).requires_grad_(requires_grad=False)
            nbytes = sum(part.nbytes for part in {*net.parameters(), *net.buffers()})
            rows = Rows(text, kv_nbytes, kind, where)
            arena = Slots.install(net, slots, max_rank, where)
        except RuntimeError as error:
            told = f"base model {path}, its kv_cache and its slots cannot be put on {where}: {error}"
            raise UserError("LM009", told, "lower kv_cache, slots or max_rank, or free the device") from error
        model = cls(net, where, kind, text.vocab_size, nbytes, rows, arena)
        model._check()
        return model

    def forward(self, parts: Iterable[Part], *, pad_to: int = 0) -> Tensor:
        """Run one batch and return the logits of the wanted parts, [K, vocab], in the order of `parts`.

        `parts` must come ordered by slot. With `pad_to`, every part is one wanted token, and every GEMM,
        those of the slots included, has that many rows: a result then depends on its own sequence only.
        """
        parts = list(parts)
        tokens: list[int] = []
        positions: list[int] = []
        rows: list[int] = []
        keep: list[int] = []
        spans: list[Span] = []
        for part in parts:
            start, stop = len(tokens), len(tokens) + len(part.tokens)
            tokens.extend(part.tokens)
            positions.extend(range(part.first, part.first + stop - start))
            rows.extend(range(part.row + part.first, part.row + part.first + stop - start))
            spans.append(Span(start, stop, part.row, part.first + stop - start))
            if part.wanted:
                keep.append(stop - 1)
        missing = max(0, pad_to - len(tokens))
        body = _segments([part.slot for part in parts for _ in part.tokens])
        head = _segments([part.slot for part in parts if part.wanted])
        self.slots.segments.use(body, head, pad_to)
        packed = Packed(self._ids(rows + [self.rows.scratch] * missing), tuple(spans), self.rows)
        padded = keep + [len(tokens)] * missing
        return self._run(tokens + [0] * missing, positions + [0] * missing, packed, padded)[: len(keep)]

    def probe(self, slot: int) -> Tensor:
        """Return the logits of a short fixed prompt through `slot` (0: the base), [PROBE_TOKENS, vocab]."""
        tokens = [(index * 7919 + 1) % self.vocab for index in range(PROBE_TOKENS)]
        scratch, places = self.rows.scratch, range(PROBE_TOKENS)
        segments = _segments([slot] * PROBE_TOKENS)
        self.slots.segments.use(segments, segments, 0)
        span = Span(0, PROBE_TOKENS, scratch, PROBE_TOKENS)
        packed = Packed(self._ids([scratch + place for place in places]), (span,), self.rows)
        return self._run(tokens, list(places), packed, list(places))

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


def _segments(slots: list[int]) -> tuple[Segment, ...]:
    """Return the runs of equal slots, without those of the base."""
    starts = [at for at in range(len(slots)) if at == 0 or slots[at] != slots[at - 1]]
    runs = zip(starts, [*starts, len(slots)][1:], strict=True)
    return tuple(Segment(start, stop, slots[start]) for start, stop in runs if slots[start])


def _device(asked: str) -> torch.device:
    count = torch.cuda.device_count()
    if asked == "auto":
        asked = "cuda:0" if count else "cpu"
    cuda = re.fullmatch(r"cuda(?::(\d+))?", asked)
    if asked != "cpu" and (cuda is None or int(cuda[1] or 0) >= count):
        raise UserError(
            "LM009",
            f"device {asked} is not here: torch finds {count} CUDA devices",
            "use device: auto or cpu",
        )
    return torch.device(asked)


def _read(path: str, dtype: str, device: torch.device) -> tuple[nn.Module, PretrainedConfig, torch.dtype]:
    """Load the checkpoint in `path`. Raises UserError LM010 unless it holds every weight."""
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        _check_positions(config, path)
        kind = _dtype(dtype, device, config)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=kind,
            attn_implementation=attention.NAME,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in `told`, which says more than the error does
        )
    except UNREADABLE as error:
        raise UserError("LM010", f"base model {path} cannot be loaded: {error}") from error
    net, told = loaded
    if told["mismatched_keys"]:
        name, stored, expected = min(told["mismatched_keys"])
        sizes = f"{name} is {list(stored)}, the config makes it {list(expected)}"
        raise UserError("LM010", f"base model {path}: {sizes}", "weights and config.json are of two models")
    if missing := sorted(told["missing_keys"]):
        raise UserError(
            "LM010",
            f"base model {path}: {len(missing)} tensors are not in its files: {missing[:NAMED]}",
            "copy or download it again",
        )
    return net, config, kind


def _check_positions(config: PretrainedConfig, path: str) -> None:
    """Refuse frequencies that follow the longest sequence of a batch: one request would change another."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    for each in (rope, *rope.values()):
        kind = each.get("rope_type") if isinstance(each, dict) else None
        if isinstance(kind, str) and ("dynamic" in kind or kind == "longrope"):
            raise UserError("LM010", f"base model {path}: rope_type {kind} is not supported")


def _dtype(asked: str, device: torch.device, config: object) -> torch.dtype:
    if asked == "auto":
        kept = getattr(config, "dtype", None)
        return kept if device.type == "cuda" and isinstance(kept, torch.dtype) else torch.float32
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if asked not in kinds:
        raise UserError("LM010", f"dtype {asked!r} is not one of auto, {', '.join(kinds)}")
    return kinds[asked]
