"""The number formats of adapters: widened to fp32 exactly, rounded to bf16 as torch rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from actors.lm.header import AdapterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from actors.lm.header import Tensor

#: What adapters may be stored in.
WIDE = {"F32": "<f4", "F16": "<f2"}
FLOATS = frozenset({*WIDE, "BF16"})


def floats(data: NDArray[np.uint8], tensor: Tensor) -> NDArray[np.float32]:
    """Return the values of `tensor` as float32 of its shape: exact for every dtype of FLOATS."""
    raw = data[tensor.start : tensor.stop].tobytes()
    if tensor.dtype == "BF16":
        wide = np.frombuffer(raw, "<u2").astype("<u4") << 16
        return wide.view("<f4").reshape(tensor.shape)
    return np.frombuffer(raw, WIDE[tensor.dtype]).astype(np.float32).reshape(tensor.shape)


def bfloat16(values: NDArray[np.float32], what: str) -> NDArray[np.uint16]:
    """Round finite `values` to the nearest bf16, ties to even; return their 16 bits, of the same shape.

    Raises AdapterError ADP040 where a value is so large that it rounds to infinity; `what` names the values.
    """
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    # Half a unit of the last kept bit, less one if that bit is even: a carry runs into the exponent as it
    # should. No finite value carries over 32 bits: its exponent is at most 0xfe.
    kept: NDArray[np.uint16] = ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16).astype("<u2")
    over = int(np.count_nonzero((kept & 0x7F80) == 0x7F80))
    if over:
        raise AdapterError(
            "ADP040", f"{what} has {over} values too large for bf16", "set slot_dtype: float32 for its base"
        )
    return kept
