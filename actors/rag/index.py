"""One qdrant-edge shard in one directory: derived from the log, and rebuilt from it when in doubt.

What the engine does not do is done here: its own lock (without its WAL it allows two openers), checks before
each write (a bad batch is applied in part, NaN is accepted), and a guard on free space (a full tmpfs kills
the process with SIGBUS, on write and on every reopen). Its WAL stays off: the shard's own log is the durable
truth. Every engine call holds the GIL, so batches are small and sealing runs in another process (`build.py`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge

from actors.rag.lock import DirLock
from actors.rag.manifest import Manifest
from actors.rag.oplog import Vectors
from placement.errors import TierceError, UserError, WorldError
from placement.tiers import Tier
from placement.units import format_bytes

#: Points per engine call. It holds the GIL, so a search waits for one batch at most.
BATCH = 128
#: What an index directory may hold; one with anything else is not ours to wipe.
OURS = {"LOCK", "MANIFEST.json", "MANIFEST.json.new", "shard"}
#: One of these is in `shard` as long as the engine has anything there.
ENGINES = {"edge_config.json", "segments", "temp_segments"}
#: Free bytes that a write must leave behind: the engine maps its files in steps of up to 32 MiB.
RESERVE_NBYTES = 96 << 20
#: A builder whose parent was killed is dead by then: it looks up between two engine calls.
ORPHAN_S = 10.0
#: SSD: this many candidates per wanted passage are rescored on the original vectors.
OVERSAMPLING = 4.0


@dataclass(frozen=True, slots=True)
class Hit:
    """A found point; `score` is the cosine with the query."""

    id: str
    score: float
    payload: dict[str, Any]


class Index:
    """The points of one shard in one tier. Not thread-safe: the shelf holds one lock around each call.

    RAM: float32 vectors on a tmpfs, scanned exactly. SSD: sealed points are scanned in int8, pinned in
    memory, and the best are rescored on the originals, which stay cold; points written since are scanned
    exactly. Neither has a graph: search time grows with the number of points.
    """

    def __init__(self, directory: Path, dim: int, tier: Tier, shard: edge.EdgeShard, lock: DirLock) -> None:
        self.directory = directory
        self.dim = dim
        self.tier = tier
        self._shard = shard
        self._lock = lock

    @classmethod
    def open(
        cls, directory: Path, dim: int, tier: Tier, *, lock: DirLock | None = None, fresh: bool = False
    ) -> Index:
        """Load the index in `directory`, or create an empty one; `fresh` erases what is there first.

        The index owns `lock` from here on; without one it takes the directory's, and waits a little for an
        orphan that still builds there. Raises UserError RAG009 for a tier or a directory that is unfit,
        WorldError RAG005 if another owner has it, RAG003 without room to map files.
        """
        with ExitStack() as stack:
            if lock:
                stack.callback(lock.release)
            check_home(directory, tier)
            if not lock:
                lock = DirLock.acquire(directory, ORPHAN_S)
                stack.callback(lock.release)
            if fresh:
                erase(directory)
            guard_space(directory, 0)
            data = directory / "shard"
            shutil.rmtree(data / "temp_segments", ignore_errors=True)  # left by a killed seal
            exists = (data / "edge_config.json").exists()
            with _typed(directory):
                make = edge.EdgeShard.load if exists else edge.EdgeShard.create
                shard = make(str(data), _config(dim, tier))
            stack.pop_all()
        return cls(directory, dim, tier, shard, lock)

    def upsert(self, ids: Sequence[str], vectors: Vectors, payloads: Sequence[dict[str, Any]]) -> None:
        """Write at most BATCH points; `vectors` is float32 [points, dim] as `check_vectors` returned it."""
        points = [
            edge.Point(point, row, payload)
            for point, row, payload in zip(ids, vectors.tolist(), payloads, strict=True)
        ]
        with _typed(self.directory):
            self._shard.update(edge.UpdateOperation.upsert_points(points))

    def delete(self, ids: Sequence[str]) -> None:
        """Remove at most BATCH points; unknown ids are ignored."""
        with _typed(self.directory):
            self._shard.update(edge.UpdateOperation.delete_points(list(ids)))

    def search(self, vector: Vectors, k: int) -> list[Hit]:
        """Return the `k` points of highest cosine with `vector` [dim], best first."""
        rescore = edge.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
        params = (
            edge.SearchParams(quantization=rescore)
            if self.tier is Tier.SSD
            else edge.SearchParams(exact=True)
        )
        request = edge.QueryRequest(
            limit=k, query=edge.Query.Nearest(vector.tolist()), with_payload=True, params=params
        )
        with _typed(self.directory):
            found = self._shard.query(request)
        return [Hit(str(point.id), point.score, point.payload or {}) for point in found]

    def payloads(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the payload of each of the points that is there."""
        with _typed(self.directory):
            found = self._shard.retrieve(list(ids), with_payload=True, with_vector=False)
        return {str(point.id): point.payload or {} for point in found}

    def ids(self) -> Iterator[str]:
        """Yield the id of every point, in pages; the index must not be written to meanwhile."""
        offset = None
        while True:
            page = edge.ScrollRequest(offset=offset, limit=1000, with_payload=False, with_vector=False)
            with _typed(self.directory):
                records, offset = self._shard.scroll(page)
            yield from (str(record.id) for record in records)
            if offset is None:
                return

    def count(self) -> int:
        with _typed(self.directory):
            return self._shard.count(edge.CountRequest(exact=True))

    def seal(self) -> None:
        """Merge the points into one segment, quantised on SSD. Holds the GIL long: never while serving."""
        with _typed(self.directory):
            self._shard.optimize()

    def sealed(self) -> int:
        """Return how many points are in sealed segments."""
        with _typed(self.directory):
            return self._shard.info().indexed_vectors_count

    def flush(self) -> None:
        """Write everything to the files and sync them."""
        with _typed(self.directory):
            self._shard.flush()

    def nbytes(self) -> int:
        """Return the bytes that the files occupy; they are sparse, so less than their lengths."""
        return sum(path.stat().st_blocks * 512 for path in self.directory.rglob("*") if path.is_file())

    def close(self) -> None:
        """Release files and lock; pending writes may be lost (the log has them)."""
        self._shard.close()
        self._lock.release()


def check_home(directory: Path, tier: Tier) -> None:
    """Raise UserError RAG009 unless an index of `tier` may lie in `directory`: absent, empty or an index.

    Nothing is written there, so somebody else's directory stays as it is.
    """
    if tier not in {Tier.RAM, Tier.SSD}:
        raise UserError("RAG009", f"an index lives in RAM or on SSD, not in {tier.value}")
    _check_ours(directory)


def _check_ours(directory: Path) -> None:
    try:
        foreign = _foreign(directory)
    except OSError as error:
        raise UserError(
            "RAG009", f"{directory} cannot hold an index: {error.strerror}", "name an empty directory"
        ) from error
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise UserError(
            "RAG009",
            f"{directory} holds {', '.join(map(repr, foreign[:3]))}{more}, which is no part of an index",
            "name an empty directory",
        )


def _foreign(directory: Path) -> list[str]:
    """What in `directory` no index has; a manifest or a `shard` of somebody else counts too."""
    if not directory.exists():
        return []
    names = {path.name for path in directory.iterdir()}
    foreign = names - OURS
    inside = {path.name for path in (directory / "shard").iterdir()} if "shard" in names else set()
    if Manifest.read(directory) is None:
        if inside and not inside & ENGINES:
            foreign.add("shard")
        if "MANIFEST.json" in names and not inside:
            foreign.add("MANIFEST.json")
    return sorted(foreign)


def erase(directory: Path) -> None:
    """Remove the index in `directory`, its manifest first: after a crash on the way it must be rebuilt.

    Raises UserError RAG009, and removes nothing, when the directory holds anything else.
    """
    _check_ours(directory)
    for name in ("MANIFEST.json", "MANIFEST.json.new"):
        (directory / name).unlink(missing_ok=True)
    if (directory / "shard").exists():
        shutil.rmtree(directory / "shard")


def remove(directory: Path) -> None:
    """Remove the index that nobody has open in `directory`, and the directory. Raises RAG005, RAG009."""
    lock = DirLock.acquire(directory, ORPHAN_S)
    try:
        erase(directory)
    finally:
        lock.release()
    (directory / DirLock.NAME).unlink(missing_ok=True)
    directory.rmdir()


def discard(directory: Path, error: BaseException) -> None:
    """Remove what a build that ended with `error` left; if that fails too, `error` gets a note of it.

    What was never ours stays: the directory of another owner (RAG005) or with other files (RAG009).
    """
    if isinstance(error, TierceError) and error.code in {"RAG005", "RAG009"}:
        return
    try:
        if directory.exists():
            remove(directory)
    except (OSError, TierceError) as left:
        error.add_note(f"{directory} could not be removed: {left}")


def check_vectors(vectors: Vectors, n: int, dim: int) -> Vectors:
    """Return `vectors` as float32 [n, dim], or raise UserError DOC020 with the first row that is wrong."""
    try:
        array = np.ascontiguousarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UserError("DOC020", f"the vectors are no array of numbers: {error}") from error
    if array.shape != (n, dim):
        raise UserError(
            "DOC020", f"vectors of shape {list(array.shape)} came for {n} texts of {dim} dimensions"
        )
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise UserError("DOC020", f"vector {int(np.argmin(finite))} of {n} holds NaN or infinity")
    lengths = np.linalg.norm(array, axis=1)
    if n and float(lengths.min()) < 1e-6:
        raise UserError("DOC020", f"vector {int(np.argmin(lengths))} of {n} is zero: it has no direction")
    return array


def guard_space(directory: Path, nbytes: int, reserve_nbytes: int = RESERVE_NBYTES) -> None:
    """Raise WorldError RAG003 unless a write of `nbytes` leaves `reserve_nbytes` free in `directory`."""
    stat = os.statvfs(directory)
    free = stat.f_bavail * stat.f_frsize
    if free < nbytes + reserve_nbytes:
        raise WorldError(
            "RAG003",
            f"{directory} has {format_bytes(free)} free; this write needs {format_bytes(nbytes)} "
            f"and must leave {format_bytes(reserve_nbytes)}",
            "free space there, or move the shard to another place",
        )


@contextmanager
def _typed(directory: Path) -> Iterator[None]:
    """Turn what the engine raises (bare Exception, and panics that are no Exception) into RAG006."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise WorldError(
            "RAG006", f"the engine failed in {directory}: {error}", "ask again in a moment"
        ) from error


def _config(dim: int, tier: Tier) -> edge.EdgeConfig:
    ssd = tier is Tier.SSD
    int8 = edge.ScalarQuantizationConfig(edge.ScalarType.Int8, quantile=0.99, memory=edge.Memory.Pinned)
    vectors = edge.EdgeVectorParams(
        dim,
        edge.Distance.Cosine,
        quantization_config=int8 if ssd else None,
        memory=edge.Memory.Cold if ssd else edge.Memory.Cached,
    )
    return edge.EdgeConfig(
        vectors=vectors,
        hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000),
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=1, default_segment_number=1),
        max_search_threads=1,
        wal_enabled=False,
    )
