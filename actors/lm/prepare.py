"""From a PEFT directory to a slot image, in one call that a child process can run (parsing holds the GIL)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.lm.adapter import read_adapter
from actors.lm.base import base_shape
from actors.lm.hub import locate
from actors.lm.image import build_image, image_digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked adapter as an image.

    `digest` (64 hex digits) names the source files, `image_digest` the bytes of `image`; `base` is the
    fingerprint of the base it was checked against, `modules` how many of its modules the adapter touches.
    """

    digest: str
    image: NDArray[np.uint8]
    image_digest: str
    base: str
    rank: int
    modules: int
    warnings: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        return self.image.nbytes


def prepare(lora_path: str, base_path: str, max_rank: int) -> Prepared:
    """Check the adapter in `lora_path` against the base in `base_path` (or a hub id); build its image.

    Raises AdapterError (ADP001 to ADP037) for the adapter, UserError LM010 for the base. Imports no torch.
    """
    base = base_shape(locate(base_path))
    adapter = read_adapter(lora_path, base, max_rank=max_rank)
    image = build_image(adapter)
    return Prepared(
        digest=adapter.digest,
        image=image,
        image_digest=image_digest(image),
        base=adapter.base,
        rank=adapter.rank,
        modules=len(adapter.targets),
        warnings=adapter.warnings,
    )
