"""From a PEFT directory to an image, in one call that a child process can run (parsing holds the GIL)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from actors.lm.adapter import largest_weights, read_adapter
from actors.lm.base import BaseShape, base_shape
from actors.lm.extras import modules_of
from actors.lm.header import HEAD_NBYTES, parse_header
from actors.lm.hub import locate
from actors.lm.image import (
    DTYPES,
    Dtype,
    Image,
    ShadowImage,
    build_image,
    build_shadow,
    image_digest,
    read_image,
)
from actors.lm.peft_config import config_fields

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked adapter as an image.

    `digest` (64 hex digits) names the source files, `image_digest` the `nbytes` bytes of `image`; `base` is
    the fingerprint of the base it was checked against, `modules` how many of its modules the adapter touches,
    `rank` the highest of a LoRA (0 for a method without one). A slot serves it, or a shadow because of `why`.
    A Store answers without the image: bytes go from place to place by an offer, never by way of the caller.
    """

    digest: str
    image: NDArray[np.uint8]
    image_digest: str
    nbytes: int
    base: str
    rank: int
    modules: int
    warnings: tuple[str, ...]
    kind: Literal["slot", "shadow"] = "slot"
    why: str = ""


def prepare(
    lora_path: str,
    base_path: str,
    max_rank: int,
    shape: BaseShape | None = None,
    slot_dtype: Dtype = "float32",
) -> Prepared:
    """Check the adapter in `lora_path` against the base in `base_path` (or a hub id); build its image.

    `shape` is the base as its engine told it, for a node that does not have the base's directory;
    `slot_dtype` is that of the engine's slots. Raises AdapterError (ADP001 to ADP040) for the adapter,
    UserError LM010 for the base. Imports torch only for DoRA.
    """
    base = shape_of(base_path, shape)
    itemsize = next(size for name, size in DTYPES.values() if name == slot_dtype)
    adapter = read_adapter(lora_path, base, max_rank=max_rank, itemsize=itemsize)
    if adapter.kind == "shadow":
        image = build_shadow(adapter.config, adapter.data, adapter.digest, adapter.base, adapter.why)
    else:
        image = build_image(adapter, slot_dtype)
    return _told(image, adapter.warnings)


def shape_of(base_path: str, shape: BaseShape | None) -> BaseShape:
    """Return the shape of the base from its directory, else as told, else from the hub."""
    if shape is not None and not Path(base_path).is_dir():
        return shape
    return base_shape(locate(base_path))


def largest(base_path: str, max_rank: int, shape: BaseShape | None = None) -> int:
    """Return the bytes that the weights of an adapter of this base may have at most."""
    return largest_weights(shape_of(base_path, shape), max_rank)


def described(image: NDArray[np.uint8]) -> Prepared:
    """Return what an image that is kept tells of its adapter. Raises WorldError LM004 if it is no image."""
    return _told(image, ())


def _told(image: NDArray[np.uint8], warnings: tuple[str, ...]) -> Prepared:
    view = read_image(image)
    rank, modules = _of_shadow(view) if isinstance(view, ShadowImage) else _of_slot(view)
    return Prepared(
        digest=view.digest,
        image=image,
        image_digest=image_digest(image),
        nbytes=image.nbytes,
        base=view.base,
        rank=rank,
        modules=modules,
        warnings=warnings,
        kind="shadow" if isinstance(view, ShadowImage) else "slot",
        why=view.why if isinstance(view, ShadowImage) else "",
    )


def _of_slot(view: Image) -> tuple[int, int]:
    ranks = [patch.rank for patch in view.layout]
    return max(ranks), len(ranks)


def _of_shadow(view: ShadowImage) -> tuple[int, int]:
    fields = config_fields(view.config, "config")
    header = parse_header(view.weights[:HEAD_NBYTES].tobytes(), view.weights.nbytes, "weights")
    rank = fields.get("r")
    return rank if type(rank) is int else 0, modules_of(header, str(fields.get("peft_type", "LORA")))
