"""The base model's weights: a checkpoint read whole onto its device, or refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from actors.lm import attention
from actors.lm.base import base_shape
from actors.lm.families import refuse_family
from placement.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

#: What reading a checkpoint raises when its files are missing, cut, of another architecture or quantised.
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)
NAMED = 5
#: The names that safetensors gives to 16-bit floats.
HALVES = {"BF16": torch.bfloat16, "F16": torch.float16}


def find_device(asked: str) -> torch.device:
    """Return the device that "auto", "cpu" or "cuda:N" names. Raises UserError LM009 if it is not here."""
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


def read_base(
    path: str, dtype: str, device: torch.device, *, narrow: bool = False
) -> tuple[nn.Module, PretrainedConfig, torch.dtype]:
    """Load the checkpoint in `path`; return it, its config, and the dtype that it computes in.

    `narrow`: weights of a 16-bit checkpoint that is to compute in fp32 on a CPU are left in 16 bits, for
    `fit` to pack. Raises UserError LM010 unless the checkpoint holds every weight.
    """
    attention.register()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        refuse_family(config)
        _check_positions(config, path)
        kind = _dtype(dtype, device, config)
        stored = stored_half(path) if narrow and kind == torch.float32 and device.type == "cpu" else None
        loaded: Any = _load(path, stored or kind)
        if stored is not None and _rounded(loaded[0], stored):
            loaded = _load(path, kind)
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


def stored_half(path: str) -> torch.dtype | None:
    """Return the 16-bit dtype that all weights in `path` are stored in, None if some have another."""
    kinds = {dtype for _, dtype, _, _ in base_shape(path).weights.values()}
    return HALVES.get(kinds.pop()) if len(kinds) == 1 else None


def _load(path: str, kind: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        path,
        dtype=kind,
        attn_implementation=attention.NAME,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are in `told`, which says more than the error does
    )


def _rounded(net: nn.Module, stored: torch.dtype) -> bool:
    """Tell whether a constant that no checkpoint holds was rounded to the dtype of the weights."""
    return any(
        module.get_buffer(name).dtype == stored
        for module in net.modules()
        for name in module._non_persistent_buffers_set  # noqa: SLF001 -- torch tells it nowhere else
        if getattr(module, name) is not None
    )


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
