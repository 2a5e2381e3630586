"""The header of a safetensors file, read strictly: limits first, no key twice, every byte accounted for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from placement.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HEADER_NBYTES = 4 << 20
MAX_TENSORS = 20_000
#: How much of a file's beginning `parse_header` may need.
HEAD_NBYTES = 8 + MAX_HEADER_NBYTES
ITEM_NBITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "BOOL": 8,
    "U64": 64, "U32": 32, "U16": 16, "U8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
}  # fmt: skip


class AdapterError(UserError):
    """An adapter that must not serve: `code` is of ADP001 to ADP040, the message names file and tensor."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Tensor:
    """One entry of a header. `start` and `stop` are byte offsets from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Header:
    """Every tensor of a safetensors file in file order, and its free text metadata."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def parse_header(head: bytes, nbytes: int, name: str) -> Header:
    """Read the header of a file of `nbytes` that begins with `head` (all of it, or at least HEAD_NBYTES).

    `name` stands in the messages. Raises AdapterError ADP004 to ADP012 for anything that is not a whole,
    unambiguous safetensors file; the data itself is not looked at.
    """
    length = _header_nbytes(head, nbytes, name)
    fields = _strict_json(head[8 : 8 + length], name)
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise AdapterError("ADP008", f"{name}: __metadata__ is not a map of texts")
    if len(fields) > MAX_TENSORS:
        raise AdapterError("ADP009", f"{name}: {len(fields)} tensors, more than {MAX_TENSORS}")
    start = 8 + length
    tensors = {key: _tensor(key, entry, start, name) for key, entry in fields.items()}
    ordered = dict(sorted(tensors.items(), key=lambda pair: pair[1].start))
    _check_coverage(ordered, start, nbytes, name)
    return Header(ordered, metadata)


def _header_nbytes(head: bytes, nbytes: int, name: str) -> int:
    if head.startswith(b"version https://git-lfs"):
        raise AdapterError("ADP005", f"{name} is a git-lfs pointer, not the weights", "run: git lfs pull")
    # A header of 640 bytes begins like a pickle too; but its ninth byte opens the JSON.
    pickled = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and head[8:9] != b"{"
    if head[:4] == b"PK\x03\x04" or pickled:
        hint = "convert it to safetensors on a machine that trusts it"
        raise AdapterError("ADP004", f"{name} is a pickle, which is never loaded", hint)
    if nbytes < 8:
        raise AdapterError("ADP006", f"{name} has {nbytes} bytes: empty, or still downloading?")
    length = int.from_bytes(head[:8], "little")
    if length > 100_000_000:
        raise AdapterError("ADP008", f"{name}: header claims {length} bytes in a file of {nbytes}")
    if length > MAX_HEADER_NBYTES:
        raise AdapterError("ADP009", f"{name}: header of {length} bytes, more than {MAX_HEADER_NBYTES}")
    if 8 + length > nbytes:
        raise AdapterError(
            "ADP007", f"{name} is cut off: {nbytes} bytes, the header alone needs {8 + length}"
        )
    return length


def _strict_json(text: bytes, name: str) -> dict[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise AdapterError("ADP010", f"{name}: {twice!r} stands twice in the header")
        return fields

    try:
        fields = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise AdapterError("ADP008", f"{name}: the header is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise AdapterError("ADP008", f"{name}: the header is not a JSON object")
    return fields


def _tensor(key: str, entry: object, data_start: int, name: str) -> Tensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(stop)], **rest} if (
            not rest
        ):
            pass
        case _:
            raise AdapterError("ADP012", f"{name}: {key!r} is not described by dtype, shape and data_offsets")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise AdapterError("ADP012", f"{name}: {key!r} has shape {shape}")
    if dtype not in ITEM_NBITS:
        raise AdapterError("ADP012", f"{name}: {key!r} has unknown dtype {dtype!r}")
    if start < 0 or stop < start:
        raise AdapterError("ADP011", f"{name}: {key!r} lies at [{start}, {stop}]")
    if prod(shape) == 0:
        raise AdapterError("ADP011", f"{name}: {key!r} of shape {shape} holds nothing")
    if prod(shape) * ITEM_NBITS[dtype] != (stop - start) * 8:
        raise AdapterError("ADP012", f"{name}: {key!r} is {dtype} {shape} in {stop - start} bytes")
    return Tensor(dtype, tuple(shape), data_start + start, data_start + stop)


def _check_coverage(ordered: Mapping[str, Tensor], data_start: int, nbytes: int, name: str) -> None:
    reached = data_start
    for key, tensor in ordered.items():
        if tensor.start != reached:
            kind = "overlaps" if tensor.start < reached else "leaves a hole after"
            raise AdapterError(
                "ADP011", f"{name}: {key!r} at byte {tensor.start} {kind} what ends at {reached}"
            )
        reached = tensor.stop
    if reached > nbytes:
        raise AdapterError(
            "ADP007", f"{name} is cut off: {nbytes} of {reached} bytes", "copy or download it again"
        )
    if reached < nbytes:
        raise AdapterError("ADP007", f"{name} has {nbytes - reached} bytes after its last tensor")
