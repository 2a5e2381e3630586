"""From a PEFT directory to a slot image, in one call that a child process can run (parsing holds the GIL)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from actors.lm.adapter import largest_weights, read_adapter
from actors.lm.base import BaseShape, base_shape
from actors.lm.hub import locate
from actors.lm.image import build_image, image_digest, read_image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked adapter as an image.

    `digest` (64 hex digits) names the source files, `image_digest` the `nbytes` bytes of `image`; `base` is
    the fingerprint of the base it was checked against, `modules` how many of its modules the adapter touches.
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


def prepare(lora_path: str, base_path: str, max_rank: int, shape: BaseShape | None = None) -> Prepared:
    """Check the adapter in `lora_path` against the base in `base_path` (or a hub id); build its image.

    `shape` is the base as its engine told it, for a node that does not have the base's directory. Raises
    AdapterError (ADP001 to ADP037) for the adapter, UserError LM010 for the base. Imports no torch.
    """
    base = shape_of(base_path, shape)
    adapter = read_adapter(lora_path, base, max_rank=max_rank)
    image = build_image(adapter)
    return Prepared(
        digest=adapter.digest,
        image=image,
        image_digest=image_digest(image),
        nbytes=image.nbytes,
        base=adapter.base,
        rank=adapter.rank,
        modules=len(adapter.targets),
        warnings=adapter.warnings,
    )


def shape_of(base_path: str, shape: BaseShape | None) -> BaseShape:
    """Return the shape of the base from its directory, else as told, else from the hub."""
    if shape is not None and not Path(base_path).is_dir():
        return shape
    return base_shape(locate(base_path))


def largest(base_path: str, max_rank: int, shape: BaseShape | None = None) -> int:
    """Return the bytes that the weights of an adapter of this base may have at most."""
    return largest_weights(shape_of(base_path, shape).slot_nbytes(max_rank))


def described(image: NDArray[np.uint8]) -> Prepared:
    """Return what an image that is kept tells of its adapter. Raises WorldError LM004 if it is no image."""
    view = read_image(image)
    return Prepared(
        digest=view.digest,
        image=image,
        image_digest=image_digest(image),
        nbytes=image.nbytes,
        base=view.base,
        rank=max(patch.rank for patch in view.layout),
        modules=len(view.layout),
        warnings=(),
    )
