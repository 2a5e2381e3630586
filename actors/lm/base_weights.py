"""One weight of a base model, read from the base's own files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actors.lm.header import AdapterError, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from actors.lm.base import BaseShape


def stored_name(base: BaseShape, weight: str) -> str | None:
    """Return the name under which the checkpoint holds `weight`; a tied head is held as the embedding."""
    if weight in base.weights:
        return weight
    if base.tied and weight == "lm_head.weight":
        return next((other for other in base.weights if other.endswith("embed_tokens.weight")), None)
    return None


def stored_weight(base: BaseShape, stored: str, why: str) -> tuple[str, NDArray[np.uint8]]:
    """Return dtype and bytes of the weight `stored` of the checkpoint.

    Raises AdapterError ADP038 if this node does not have the base's files; `why` says who needs them.
    """
    file, dtype, start, stop = base.weights[stored]
    try:
        data = np.fromfile(Path(base.path) / file, np.uint8, stop - start, offset=start)
    except FileNotFoundError as error:
        raise AdapterError(
            "ADP038",
            f"{why} needs {stored} of base {base.name}, whose files are not on this node",
            "put the role on a node that has the base's directory",
        ) from error
    if data.nbytes != stop - start:
        raise AdapterError("ADP034", f"{Path(base.path) / file} changed while it was read", "copy it again")
    return dtype, data


def stored_tensor(dtype: str, shape: tuple[int, ...], data: NDArray[np.uint8]) -> Tensor:
    """Describe `data` as the tensor that it is."""
    return Tensor(dtype, shape, 0, data.nbytes)
