"""How large things will be, told from their files before anything is made of them. No Ray."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from actors.lm.base import base_shape, slot_nbytes
from actors.lm.hub import locate
from actors.lm.image import DTYPES
from actors.rag.chunk import TARGET_CHARS
from actors.rag.ingest import Document, read_documents

#: The vectors of the installed encoder: 384 numbers of 4 bytes.
VECTOR_NBYTES = 384 * 4
#: What a passage takes beside its vector and its text: payload, ids, and the text's second copy.
PASSAGE_NBYTES = 1024
#: What an index takes before it holds anything.
INDEX_NBYTES = 1 << 20
#: Bytes of a number in an image, by its type.
ITEM_NBYTES = dict[str, int](DTYPES.values())


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What an engine will take of its device, in bytes, for a base with such slots."""

    device: str
    kv_nbytes: int
    max_rank: int
    slot_dtype: str
    base_nbytes: int = 0
    slot_nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine has, in bytes; `ssd` are the images that its SSD tier holds, by item."""

    ram_total: int
    ssd_free: int
    ssd: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Index:
    """How large a shard's index will be; its digest is not known before it is built."""

    nbytes: int
    digest: str = ""


def foreseen_base(model: str, wants: Foreseen) -> Foreseen:
    """Return `wants` with the bytes of the base in `model` and of one slot.

    The weights count as their files are: kernels that pack them may take less or more. A CPU holds its slots
    in fp32, whatever their images are. Raises UserError LM010 for what is no base.
    """
    shape = base_shape(locate(model))
    told = ITEM_NBYTES[wants.slot_dtype]
    held = ITEM_NBYTES["float32"] if wants.device == "cpu" else told
    slot = slot_nbytes(shape.linears, wants.max_rank, told) // told * held
    return replace(wants, base_nbytes=shape.nbytes, slot_nbytes=slot)


def foreseen_index(source: str) -> int:
    """Return how large the index of these documents is likely to be. Raises UserError RAG010."""
    chars = sum(len(found.text) for found in read_documents(source) if isinstance(found, Document))
    passages = -(-chars // TARGET_CHARS)
    return INDEX_NBYTES + passages * (VECTOR_NBYTES + PASSAGE_NBYTES) + chars


def this_machine(ssd: Path) -> Machine:
    """Return what this machine has; `ssd` is the folder of its SSD tier, there or not."""
    there = next(folder for folder in (ssd, *ssd.parents) if folder.is_dir())
    return Machine(psutil.virtual_memory().total, shutil.disk_usage(there).free)
