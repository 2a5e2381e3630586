"""What a shard holds, by document: the small truth that decides which points of the index are alive."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID, uuid5

from actors.rag.oplog import Op, Put

_POINTS = UUID("7c1c6e1e-4b0e-5c0a-9d53-2f8a6f6b6f10")


@dataclass(frozen=True, slots=True)
class Held:
    """One live document: its version and the ids of its points, in the order of its chunks."""

    version: str
    ids: tuple[str, ...]


@dataclass(slots=True)
class Catalog:
    """The live documents after some operation of the log. Not thread-safe."""

    documents: dict[str, Held] = field(default_factory=dict)

    @property
    def points(self) -> int:
        return sum(len(held.ids) for held in self.documents.values())

    def take(self, op: Op) -> tuple[str, ...]:
        """Record that `op` happened; return the ids of the points that it ended."""
        old = self.documents.pop(op.document, None)
        ids: tuple[str, ...] = ()
        if isinstance(op, Put):
            ids = point_ids(op)
            self.documents[op.document] = Held(op.version, ids)
        return tuple(sorted(set(old.ids) - set(ids))) if old else ()

    def holds(self, document: str, version: str) -> bool:
        held = self.documents.get(document)
        return held is not None and held.version == version

    def copy(self) -> Catalog:
        return Catalog(dict(self.documents))

    def ids(self) -> Iterable[str]:
        return (point for held in self.documents.values() for point in held.ids)

    def digest(self) -> str:
        """Return a hash of the live documents and their versions: equal for shards of equal content."""
        lines = sorted(f"{name}\0{held.version}" for name, held in self.documents.items())
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def point_ids(put: Put) -> tuple[str, ...]:
    """Return the id of each chunk: a function of document, version and span, so a replay repeats it."""
    return tuple(
        str(uuid5(_POINTS, f"{put.document}\0{put.version}\0{chunk.start}\0{chunk.end}"))
        for chunk in put.chunks
    )


def same_points(left: Iterable[str], right: Iterable[str]) -> bool:
    """Whether both sides name the same set of points."""
    return _digest(left) == _digest(right)


def _digest(ids: Iterable[str]) -> tuple[int, int]:
    count = total = 0
    for point in ids:
        count, total = count + 1, (total + UUID(point).int) % (1 << 128)
    return count, total
