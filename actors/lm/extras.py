"""What an adapter's weights hold beside LoRA matrices: repeats of base weights, a shadow's own tensors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from actors.lm.base_weights import stored_name, stored_weight
from actors.lm.header import AdapterError
from actors.lm.numbers import FLOATS, floats

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from actors.lm.base import BaseShape
    from actors.lm.header import Header, Tensor

PREFIX = "base_model.model."
#: Kinds of numbers that are no floats and stand for themselves, such as places in a matrix.
WHOLE = frozenset({"I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"})


def base_weight(key: str) -> str:
    """Return the name that the tensor `key` of an adapter would have as a weight of the base."""
    return key.removeprefix(PREFIX).replace(".base_layer.", ".")


def check_repeat(key: str, tensor: Tensor, base: BaseShape, data: NDArray[np.uint8], name: str) -> None:
    """Let pass only an equal copy of a base weight: PEFT saves such copies beside LoRA on the head.

    PEFT copies it into the base when it loads the adapter, so another one would change every role. Raises
    AdapterError ADP022 for a tensor that means nothing, ADP023 for a weight that differs, ADP038.
    """
    stored = stored_name(base, base_weight(key))
    if stored is None:
        raise AdapterError("ADP022", f"{name}: {key} is no part of an adapter, no weight of base {base.name}")
    dtype, kept = stored_weight(base, stored, f"{name}: {key} may repeat a weight, and a check of that")
    if dtype != tensor.dtype or not np.array_equal(kept, data[tensor.start : tensor.stop]):
        told = f"{name}: {key} replaces a weight of base {base.name}, which other roles share"
        raise AdapterError("ADP023", told, "train it as one of modules_to_save, or save the LoRA alone")


def check_shadow(
    header: Header, fields: Mapping[str, object], base: BaseShape, data: NDArray[np.uint8], name: str
) -> None:
    """Check what can be checked without PEFT: finite numbers, and no weight of the base that is another one.

    Raises AdapterError ADP002, ADP013, ADP016, ADP023, ADP036 or ADP038.
    """
    saved = _saved(header, fields, name)
    kept = {stored_name(base, weight) for weight in saved} if fields.get("ensure_weight_tying") else set()
    for key, tensor in header.tensors.items():
        if tensor.dtype not in FLOATS | WHOLE:
            raise AdapterError("ADP036", f"{name}: {key}: dtype {tensor.dtype} is not supported")
        if tensor.dtype in FLOATS:
            check_finite(floats(data, tensor), f"{name}: {key}")
        stored = stored_name(base, base_weight(key))
        trained = key.endswith(".bias") and fields.get("bias", "none") != "none"
        if stored is not None and not trained and base_weight(key) not in saved and stored not in kept:
            check_repeat(key, tensor, base, data, name)


def check_finite(values: NDArray[np.float32], what: str) -> None:
    """Raise AdapterError ADP013 if any of `values` is NaN or Inf."""
    broken = int(np.count_nonzero(~np.isfinite(values)))
    if broken:
        raise AdapterError("ADP013", f"{what} has {broken} values that are NaN or Inf")


def modules_of(header: Header, kind: str) -> int:
    """Count the modules that the tensors of an adapter of a `kind` ("LORA", "IA3", …) belong to.

    PEFT names what it puts into a module by the kind; what stands before is the module.
    """
    part = (
        rf"\.(?:lora_|hada_|{re.escape(kind.lower())}_|base_layer\b|token_adapter\b|ranknum\b|weight$|bias$)"
    )
    modules = {re.split(part, key.removeprefix(PREFIX))[0] for key in header.tensors}
    return len({module for module in modules if not module.startswith("base_model")})


def _saved(header: Header, fields: Mapping[str, object], name: str) -> set[str]:
    """Return the weights that modules_to_save has copies of. Raises ADP002, or ADP016 if it has none."""
    told = fields.get("modules_to_save") or []
    if not isinstance(told, list) or not all(isinstance(each, str) for each in told):
        raise AdapterError("ADP002", f"{name}: modules_to_save is {told!r}, not a list of names")
    weights = [base_weight(key) for key in header.tensors if ".base_layer." not in key]
    saved: set[str] = set()
    for each in told:
        # As PEFT matches: "norm" is every module whose name ends so, "input_layernorm" too.
        of_it = {weight for weight in weights if weight.rpartition(".")[0].endswith(each)}
        if not of_it:
            raise AdapterError("ADP016", f"{name} has no tensor of {each}, which modules_to_save names")
        saved |= of_it
    return saved
