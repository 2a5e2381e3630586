"""The vectors of a shard as one matrix, for a device that searches them by itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.rag.catalog import Catalog
from actors.rag.index import check_vectors
from actors.rag.oplog import START, Put, Vectors, replay
from placement.errors import UserError


@dataclass(frozen=True, slots=True)
class Matrix:
    """The live points after operation `seq`: row n of `vectors` (unit, float32 [points, dim]) is `ids[n]`."""

    seq: int
    ids: tuple[str, ...]
    vectors: Vectors


def read_matrix(log_path: Path, catalog: Catalog, seq: int, dim: int) -> Matrix:
    """Read the vectors of what `catalog` holds after operation `seq` from the log; safe beside a writer."""
    parts: dict[str, Vectors] = {}
    for record in replay(log_path, START, seq):
        if isinstance(record.op, Put) and catalog.holds(record.op.document, record.op.version):
            parts[record.op.document] = record.op.vectors
    ids: list[str] = []
    vectors = np.empty((catalog.points, dim), dtype=np.float32)
    for document, held in catalog.documents.items():
        vectors[len(ids) : len(ids) + len(held.ids)] = parts.pop(document)
        ids.extend(held.ids)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Matrix(seq, tuple(ids), vectors)


def unit(vector: Vectors, k: int) -> Vectors:
    """Return the direction of a question's `vector` [dim].

    Raises UserError RAG001 unless `k` passages can be meant, DOC020 for a vector without a direction.
    """
    if k < 1:
        raise UserError("RAG001", f"top_k is {k}: ask for at least one passage")
    row: Vectors = check_vectors(np.asarray(vector).reshape(1, -1), 1, np.asarray(vector).size)[0]
    direction: Vectors = row / np.linalg.norm(row)
    return direction
