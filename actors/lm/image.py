"""The slot image of an adapter: one safetensors file with one flat fp32 tensor, laid out as a slot holds it.

The same bytes serve every tier: a file on the SSD, an array in RAM, and, copied as they are, a row of the
arena.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from actors.lm.base import aligned
from actors.lm.header import HEAD_NBYTES, AdapterError, Header, parse_header
from actors.lm.numbers import bfloat16, floats
from placement.errors import WorldError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from actors.lm.adapter import Adapter

FORMAT = "tierce-slot/1"
SHADOW = "tierce-shadow/1"
AGAIN = "the adapter must be prepared again"

Dtype: TypeAlias = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Patch:
    """Where a module's matrices lie in the slot, in floats.

    A [rank, in] begins at `offset`, B [out, rank] at `b_offset`, both as in the PEFT file.
    """

    module: str
    rank: int
    in_features: int
    out_features: int
    scale: float
    offset: int

    @property
    def b_offset(self) -> int:
        return self.offset + aligned(self.rank * self.in_features)

    @property
    def stop(self) -> int:
        return self.b_offset + aligned(self.rank * self.out_features)


@dataclass(frozen=True, slots=True)
class Image:
    """A view of an image: `slot` is flat fp32 and shares the buffer; `digest` and `base` name its source."""

    layout: tuple[Patch, ...]
    slot: NDArray[Any]
    digest: str
    base: str


@dataclass(frozen=True, slots=True)
class ShadowImage:
    """A view of an adapter that no slot can hold because of `why`: the two files of its PEFT directory."""

    config: bytes
    weights: NDArray[np.uint8]
    digest: str
    base: str
    why: str


def build_shadow(
    config: bytes, weights: NDArray[np.uint8], digest: str, base: str, why: str
) -> NDArray[np.uint8]:
    """Keep the two files of a PEFT directory in one image; `why` names the feature that needs a shadow."""
    metadata = {"format": SHADOW, "digest": digest, "base": base, "why": why}
    total = weights.size + len(config)
    tensors = {
        "weights": {"dtype": "U8", "shape": [weights.size], "data_offsets": [0, weights.size]},
        "config": {"dtype": "U8", "shape": [len(config)], "data_offsets": [weights.size, total]},
    }
    return np.concatenate([_head(metadata, tensors), weights, np.frombuffer(config, np.uint8)])


def build_image(adapter: Adapter, dtype: Dtype = "float32") -> NDArray[np.uint8]:
    """Lay the adapter out as a slot of `dtype` holds it; the same adapter always gives the same bytes."""
    layout: list[Patch] = []
    for target in adapter.targets:
        offset = layout[-1].stop if layout else 0
        layout.append(
            Patch(target.module, target.rank, target.in_features, target.out_features, target.scale, offset)
        )
    narrow = dtype == "bfloat16"
    slot = np.zeros(layout[-1].stop, np.uint16 if narrow else np.float32)
    for patch, target in zip(layout, adapter.targets, strict=True):
        for offset, tensor in ((patch.offset, target.a), (patch.b_offset, target.b)):
            values = floats(adapter.data, tensor).ravel()
            slot[offset : offset + values.size] = bfloat16(values, target.module) if narrow else values
    rows = [[p.module, p.rank, p.in_features, p.out_features, p.scale, p.offset] for p in layout]
    metadata = {"format": FORMAT, "digest": adapter.digest, "base": adapter.base, "layout": json.dumps(rows)}
    code = "BF16" if narrow else "F32"
    tensors = {"slot": {"dtype": code, "shape": [slot.size], "data_offsets": [0, slot.nbytes]}}
    return np.concatenate([_head(metadata, tensors), slot.view(np.uint8)])


def _head(metadata: dict[str, str], tensors: dict[str, dict[str, Any]]) -> NDArray[np.uint8]:
    header = json.dumps({"__metadata__": metadata, **tensors}).encode()
    # Padded so that the floats begin at a cache line: safetensors allows spaces after the JSON.
    header += b" " * (-(8 + len(header)) % 64)
    return np.frombuffer(len(header).to_bytes(8, "little") + header, np.uint8)


def read_image(buffer: NDArray[np.uint8]) -> Image | ShadowImage:
    """View `buffer` as an image, without copying. Raises WorldError LM004 if it is not a whole one."""
    try:
        header = parse_header(buffer[:HEAD_NBYTES].tobytes(), buffer.nbytes, "slot image")
        if header.metadata["format"] == SHADOW:
            return _shadow(header, buffer)
        layout, slot = _layout(header), header.tensors["slot"]
    except AdapterError as error:
        raise WorldError("LM004", error.message, "the adapter must be prepared again") from error
    except (KeyError, ValueError, TypeError) as error:
        raise WorldError(
            "LM004", f"not a slot image: {error!r}", "the adapter must be prepared again"
        ) from error
    metadata = header.metadata
    if (
        metadata["format"] != FORMAT
        or slot.dtype not in {"F32", "BF16"}
        or len(header.tensors) != 1
        or not layout
    ):
        raise WorldError("LM004", f"not an image of format {FORMAT}: {metadata['format']}, {slot.dtype}")
    expected = 0
    for patch in layout:
        if patch.offset != expected:
            raise WorldError("LM004", f"slot image: {patch.module} lies at {patch.offset}, not at {expected}")
        expected = patch.stop
    if (expected,) != slot.shape:
        raise WorldError("LM004", f"slot image: layout of {expected} floats, tensor of {slot.shape}")
    view = buffer[slot.start : slot.stop].view(np.float32 if slot.dtype == "F32" else np.uint16)
    return Image(layout, view, metadata["digest"], metadata["base"])


def image_digest(buffer: NDArray[np.uint8]) -> str:
    """Return blake2b-256 over all bytes, as 64 hex digits. Large buffers are hashed without the GIL."""
    return hashlib.blake2b(buffer.data, digest_size=32).hexdigest()


def _shadow(header: Header, buffer: NDArray[np.uint8]) -> ShadowImage:
    metadata, config, weights = header.metadata, header.tensors["config"], header.tensors["weights"]
    if len(header.tensors) != 2 or {config.dtype, weights.dtype} != {"U8"}:
        raise ValueError(f"shadow image with {list(header.tensors)[:3]}")
    return ShadowImage(
        buffer[config.start : config.stop].tobytes(),
        buffer[weights.start : weights.stop],
        metadata["digest"],
        metadata["base"],
        metadata["why"],
    )


def _layout(header: Header) -> tuple[Patch, ...]:
    rows: list[list[Any]] = json.loads(header.metadata["layout"])
    layout = tuple(
        Patch(str(module), int(rank), int(in_features), int(out_features), float(scale), int(offset))
        for module, rank, in_features, out_features, scale, offset in rows
    )
    for patch in layout:
        if min(patch.rank, patch.in_features, patch.out_features) < 1:
            raise ValueError(f"{patch.module} has an empty matrix")
    if not {"format", "digest", "base"} <= header.metadata.keys():
        raise KeyError("format, digest or base")
    return layout
