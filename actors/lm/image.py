"""The image of an adapter: one safetensors file that is copied as it is, from the SSD to RAM to a slot.

What fits a slot is one flat tensor, laid out as a row of the arena holds it; what needs a shadow keeps the
two files of its PEFT directory verbatim.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from actors.lm.header import MAX_HEADER_NBYTES, AdapterError, Header, parse_header
from actors.lm.numbers import bfloat16, floats
from placement.errors import WorldError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from actors.lm.adapter import Adapter

FORMAT = "tierce-slot/2"
SHADOW = "tierce-shadow/1"
#: Each matrix begins at a cache line.
LINE_NBYTES = 64
AGAIN = "the adapter must be prepared again"

Dtype: TypeAlias = Literal["float32", "bfloat16"]
#: What stands in the file -> name and bytes of one element.
DTYPES: Mapping[str, tuple[Dtype, int]] = {"F32": ("float32", 4), "BF16": ("bfloat16", 2)}


@dataclass(frozen=True, slots=True)
class Patch:
    """Where a module's matrices lie in the slot, in elements of `itemsize` bytes.

    A [rank, in] begins at `offset`, B [out, rank] at `b_offset`, both as in the PEFT file. With `dora` the
    vector g [out] begins at `g_offset`; it is fp32 in every slot.
    """

    module: str
    rank: int
    in_features: int
    out_features: int
    offset: int
    dora: bool
    itemsize: int

    @property
    def b_offset(self) -> int:
        return self.offset + self._padded(self.rank * self.in_features * self.itemsize)

    @property
    def g_offset(self) -> int:
        return self.b_offset + self._padded(self.rank * self.out_features * self.itemsize)

    @property
    def stop(self) -> int:
        return self.g_offset + (self._padded(4 * self.out_features) if self.dora else 0)

    def _padded(self, nbytes: int) -> int:
        return -(-nbytes // LINE_NBYTES) * LINE_NBYTES // self.itemsize


class Layout:
    """Where everything lies in a slot. Equal layouts are one object, so they are compared by identity.

    Adapters with the same modules, ranks and dtype share a layout; their scales are not part of it.
    """

    def __init__(self, patches: tuple[Patch, ...], dtype: Dtype) -> None:
        self.patches = patches
        self.dtype = dtype
        #: elements of a slot that holds it
        self.size = patches[-1].stop
        self.nbytes = self.size * patches[-1].itemsize
        #: module -> its place in `patches`, and in the scales of an image
        self.places = {patch.module: place for place, patch in enumerate(patches)}

    def __iter__(self) -> Iterator[Patch]:
        return iter(self.patches)

    def __len__(self) -> int:
        return len(self.patches)


@dataclass(frozen=True, slots=True)
class Image:
    """A view of an image: `slot` shares the buffer; `digest` and `base` name its source.

    `slot` is flat, float32, or for a bfloat16 layout uint16 with the bits. `scales` are those of the patches.
    """

    layout: Layout
    scales: tuple[float, ...]
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


def build_image(adapter: Adapter, dtype: Dtype = "float32") -> NDArray[np.uint8]:
    """Lay the adapter out as a slot of `dtype` holds it; the same adapter always gives the same bytes."""
    code, itemsize = next((code, size) for code, (name, size) in DTYPES.items() if name == dtype)
    rows: list[list[Any]] = []
    patches: list[Patch] = []
    for t in adapter.targets:
        offset, dora = patches[-1].stop if patches else 0, t.dora is not None
        patches.append(Patch(t.module, t.rank, t.in_features, t.out_features, offset, dora, itemsize))
        rows.append([t.module, t.rank, t.in_features, t.out_features, t.scale, offset, dora])
    metadata = {
        "format": FORMAT,
        "digest": adapter.digest,
        "base": adapter.base,
        "dtype": dtype,
        "layout": json.dumps(rows),
    }
    size = patches[-1].stop
    image, data = _empty(metadata, {"slot": (code, [size], size * itemsize)})
    slot = data.view(np.float32 if code == "F32" else np.uint16)
    for patch, target in zip(patches, adapter.targets, strict=True):
        for offset, tensor in ((patch.offset, target.a), (patch.b_offset, target.b)):
            values = floats(adapter.data, tensor).ravel()
            slot[offset : offset + values.size] = values if code == "F32" else bfloat16(values, target.module)
        if target.dora is not None:
            start = patch.g_offset * itemsize
            data[start : start + 4 * patch.out_features].view(np.float32)[:] = target.dora
    return image


def build_shadow(
    config: bytes, weights: NDArray[np.uint8], digest: str, base: str, why: str
) -> NDArray[np.uint8]:
    """Keep the two files of a PEFT directory in one image; `why` names the feature that needs a shadow."""
    metadata = {"format": SHADOW, "digest": digest, "base": base, "why": why}
    shapes = {"weights": ("U8", [weights.size], weights.size), "config": ("U8", [len(config)], len(config))}
    image, data = _empty(metadata, shapes)
    data[: weights.size] = weights
    data[weights.size :] = np.frombuffer(config, np.uint8)
    return image


def read_image(buffer: NDArray[np.uint8]) -> Image | ShadowImage:
    """View `buffer` as an image, without copying. Raises WorldError LM004 if it is not a whole one."""
    try:
        length = int.from_bytes(buffer[:8].tobytes(), "little")
        head = buffer[: 8 + min(length, MAX_HEADER_NBYTES)].tobytes()
        header = parse_header(head, buffer.nbytes, "image")
        return _shadow(header, buffer) if header.metadata["format"] == SHADOW else _slot(header, buffer)
    except AdapterError as error:
        raise WorldError("LM004", error.message, AGAIN) from error
    except (KeyError, ValueError, TypeError) as error:
        raise WorldError("LM004", f"not a slot image: {error!r}", AGAIN) from error


def image_digest(buffer: NDArray[np.uint8]) -> str:
    """Return blake2b-256 over all bytes, as 64 hex digits. Large buffers are hashed without the GIL."""
    return hashlib.blake2b(buffer.data, digest_size=32).hexdigest()


def _slot(header: Header, buffer: NDArray[np.uint8]) -> Image:
    metadata = header.metadata
    if metadata["format"] != FORMAT or list(header.tensors) != ["slot"]:
        raise ValueError(f"format {metadata['format']} with {list(header.tensors)[:3]}, not {FORMAT}")
    slot = header.tensors["slot"]
    dtype, itemsize = DTYPES[slot.dtype]
    if metadata["dtype"] != dtype:
        raise ValueError(f"slot of {slot.dtype} that is said to be {metadata['dtype']}")
    layout, scales = _layout(metadata["layout"], dtype, itemsize)
    if slot.shape != (layout.size,):
        raise ValueError(f"layout of {layout.size} elements, tensor of {slot.shape}")
    view = buffer[slot.start : slot.stop].view(np.float32 if itemsize == 4 else np.uint16)
    return Image(layout, scales, view, metadata["digest"], metadata["base"])


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


@lru_cache(maxsize=256)
def _layout(text: str, dtype: Dtype, itemsize: int) -> tuple[Layout, tuple[float, ...]]:
    """Read a layout's text. A lab has few layouts, so most adapters find theirs read already."""
    rows: list[list[Any]] = json.loads(text)
    patches: list[Patch] = []
    scales: list[float] = []
    expected = 0
    for module, rank, in_features, out_features, scale, offset, dora in rows:
        patch = Patch(
            str(module), int(rank), int(in_features), int(out_features), int(offset), dora is True, itemsize
        )
        if min(patch.rank, patch.in_features, patch.out_features) < 1:
            raise ValueError(f"{patch.module} has an empty matrix")
        if patch.offset != expected:
            raise ValueError(f"{patch.module} lies at {patch.offset}, not at {expected}")
        expected = patch.stop
        patches.append(patch)
        scales.append(float(scale))
    if not patches or len({patch.module for patch in patches}) != len(patches):
        raise ValueError("a layout without modules, or with one twice")
    return _shared(tuple(patches), dtype), tuple(scales)


@lru_cache(maxsize=256)
def _shared(patches: tuple[Patch, ...], dtype: Dtype) -> Layout:
    return Layout(patches, dtype)


def _empty(
    metadata: Mapping[str, str], tensors: Mapping[str, tuple[str, list[int], int]]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a safetensors file of zeros for `tensors` (dtype, shape, bytes), and a view of its data."""
    entries: dict[str, Any] = {"__metadata__": metadata}
    total = 0
    for key, (code, shape, nbytes) in tensors.items():
        entries[key] = {"dtype": code, "shape": shape, "data_offsets": [total, total + nbytes]}
        total += nbytes
    header = json.dumps(entries).encode()
    # Padded so that the data begins at a cache line: safetensors allows spaces after the JSON.
    header += b" " * (-(8 + len(header)) % LINE_NBYTES)
    head = len(header).to_bytes(8, "little") + header
    image = np.zeros(len(head) + total, np.uint8)
    image[: len(head)] = np.frombuffer(head, np.uint8)
    return image, image[len(head) :]
