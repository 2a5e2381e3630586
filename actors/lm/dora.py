"""DoRA's weight norms, once per adapter: what PEFT computes again at each step of each module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from actors.lm.base_weights import stored_name, stored_tensor, stored_weight
from actors.lm.header import AdapterError
from actors.lm.numbers import FLOATS, floats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from actors.lm.base import BaseShape


def gains(
    base: BaseShape,
    module: str,
    a: NDArray[np.float32],  # [rank, in]
    b: NDArray[np.float32],  # [out, rank]
    scale: float,
    magnitude: NDArray[np.float32],  # [out]
) -> NDArray[np.float32]:
    """Return magnitude / ||W + scale B A||, [out]: the norm of each row, with W read from the base's files.

    Bit for bit what PEFT 0.21 computes in fp32 with one thread (`DoraLinearLayer.forward`): the same torch
    operations on the same memory layouts. W counts as stored; an engine that rounds it serves a norm that
    is off by as much. Imports torch. Raises AdapterError ADP038 without the base's files, ADP036 for a
    quantised base, ADP013 for a norm of zero.
    """
    weight = _weight(base, module, b.shape[0], a.shape[1])
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            left = torch.tensor(a).T.contiguous()  # [in, rank]: PEFT's lora_A applied to the unit matrix
            product = torch.nn.functional.linear(left, torch.tensor(b)).T  # [out, in]
            norm = torch.linalg.norm(torch.tensor(weight) + scale * product, dim=1)
            gain: NDArray[np.float32] = (torch.tensor(magnitude) / norm).numpy()
    finally:
        torch.set_num_threads(threads)
    if not np.isfinite(gain).all():
        raise AdapterError("ADP013", f"{module}: DoRA divides by a norm of zero, or its magnitudes overflow")
    return gain


def _weight(base: BaseShape, module: str, out_features: int, in_features: int) -> NDArray[np.float32]:
    stored = stored_name(base, f"{module}.weight")
    if stored is None:
        raise AdapterError("ADP020", f"base {base.name} stores no {module}.weight, which DoRA needs")
    dtype, data = stored_weight(base, stored, f"DoRA on {module}")
    if dtype not in FLOATS:
        raise AdapterError("ADP036", f"DoRA on {module}: the base stores it as {dtype}, which is quantised")
    return floats(data, stored_tensor(dtype, (out_features, in_features), data))
