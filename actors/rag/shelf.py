"""One RAG shard: a durable log, an index derived from it in one tier, moves of the index while it serves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from actors.rag.build import batches, build
from actors.rag.chunk import Chunk
from actors.rag.index import BATCH, Hit, Index, check_home, check_vectors, discard, guard_space, remove
from actors.rag.lock import DirLock, Turns
from actors.rag.manifest import Manifest, digests, forget
from actors.rag.matrix import Matrix, read_matrix
from actors.rag.oplog import Mark, Op, Oplog, Put, Remove, Vectors, check_text, replay
from actors.rag.prompt import Passage
from actors.rag.recovery import Opened, apply, open_index, open_log, verify
from actors.rag.stats import Stats
from placement.errors import UserError, WorldError
from placement.tiers import Tier

#: A process that was killed may be outlived for a moment by a child that it was just starting.
DYING_S = 1.0
#: After this many points written, files are synced, so that the next open has little to replay.
CHECKPOINT_POINTS = 2000
#: Fewer points than this are scanned exactly in a fraction of a millisecond: quantising them gains nothing.
SEAL_POINTS = 1000


class Shelf:
    """A shard, open. Any thread may call any method; writes and moves take turns, searches go on."""

    def __init__(self, name: str, lock: DirLock, log: Oplog, opened: Opened) -> None:
        self.name = name
        self._lock = lock
        self._log = log
        self._rebuilt = opened.rebuilt
        self._manifest = opened.manifest
        self._index = opened.index
        self._catalog = opened.catalog
        self._unsynced = 0
        #: Why no more writes are taken; "" while they are.
        self._failed = ""
        #: The engine failed to answer from the index, which has no manifest now: the next open builds it.
        self._distrusted = False
        self._moving = Turns()  # taken before _writer
        self._writer = Turns()  # taken before _engine
        self._engine = Turns()  # around each engine call, and the flip of index and catalog

    @classmethod
    def open(
        cls, name: str, log_dir: str | Path, index_dir: str | Path, tier: Tier, dim: int, fingerprint: str
    ) -> Shelf:
        """Open the shard, or create it empty: take its locks, check the log, load or rebuild the index.

        `log_dir` must be on a disk; `index_dir` is another directory, for RAM one on /dev/shm. Every
        operation that was ever acknowledged is searchable when this returns. Raises UserError CFG063 if the
        vectors in the log came from another encoder, WorldError RAG004 for a damaged log, RAG005 if the shard
        is open elsewhere, RAG003 without room, RAG008 if the log lacks operations that the index has,
        UserError RAG009 if `index_dir` holds anything but an index.
        """
        directory = Path(log_dir)
        with ExitStack() as stack:
            lock = DirLock.acquire(directory, DYING_S)
            stack.callback(lock.release)
            log = open_log(directory / "ops.log", dim, fingerprint)
            stack.callback(log.close)
            if _aside(Path(index_dir)).exists():  # a seal was killed half-way
                remove(_aside(Path(index_dir)))
            opened = open_index(log, Path(index_dir), tier)
            stack.pop_all()
        return cls(name, lock, log, opened)

    def add(self, document: str, version: str, chunks: Sequence[Chunk], vectors: Vectors) -> bool:
        """Make `chunks` with `vectors` [chunks, dim] the content of `document`; return if that was a change.

        Durable when it returns. Older versions vanish from searches in the same step in which this one
        appears. A version that is live already is not written again. Raises UserError DOC020 for vectors that
        do not fit the chunks, WorldError RAG003 without room: both before anything is written.
        """
        if not chunks:
            raise UserError(
                "DOC020", f"{document}: a document needs at least one chunk", "remove() it instead"
            )
        put = Put(document, version, tuple(chunks), check_vectors(vectors, len(chunks), self._index.dim))
        check_text(put)
        with self._writer:
            self._check_writable()
            if self._catalog.holds(document, version):
                return False
            guard_space(self._index.directory, 3 * put.vectors.nbytes)
            self._write(put)
            return True

    def remove(self, document: str) -> bool:
        """Take `document` out; return whether it was there. Durable when it returns."""
        with self._writer:
            self._check_writable()
            if document not in self._catalog.documents:
                return False
            self._write(Remove(document))
            return True

    def search(self, vector: Vectors, k: int) -> list[Passage]:
        """Return the `k` passages nearest to the unit vector `vector` [dim], best first, score = cosine.

        Raises WorldError RAG006 if the index is damaged; the next open, and the next move, build it anew.
        """
        if k < 1:
            raise UserError("RAG001", f"top_k is {k}: ask for at least one passage")
        query = check_vectors(np.asarray(vector).reshape(1, -1), 1, self._index.dim)[0]
        limit = k
        while True:
            with self._engine:
                self._check_open()
                hits = self._hits(query, limit)
                live = [
                    hit
                    for hit in hits
                    if self._catalog.holds(hit.payload["document"], hit.payload["version"])
                ]
            if len(live) >= k or len(hits) < limit:
                return [_passage(self.name, hit) for hit in live[:k]]
            limit *= 4  # a replacement is under way and its points crowd the front

    def matrix(self) -> Matrix:
        """Return the vectors of everything that is live now, for another place to search."""
        with self._writer:
            seq, catalog = self._log.seq, self._catalog.copy()
        return read_matrix(self._log.path, catalog, seq, self._index.dim)

    def passages(self, found: Sequence[tuple[str, float]], seq: int) -> list[Passage] | None:
        """Return the texts of points that were found in `matrix()`, in their order, with these scores.

        None if anything was written since operation `seq`, or a text is missing here: search here instead.
        """
        with self._engine:
            self._check_open()
            rows = self._index.payloads([point for point, _ in found])
            if self._log.seq != seq or not all(rows.get(point) for point, _ in found):
                return None
        return [_passage(self.name, Hit(point, score, rows[point])) for point, score in found]

    @property
    def seq(self) -> int:
        """The last durable operation; any thread may ask, and is never kept waiting."""
        return self._log.seq

    def documents(self) -> dict[str, str]:
        """Return the version of each live document."""
        with self._engine:
            return {name: held.version for name, held in self._catalog.documents.items()}

    def rehome(self, index_dir: str | Path, tier: Tier) -> None:
        """Move the index to another directory and tier: build there, verify, flip, remove the old one.

        Searches answer from the old index until the flip. Writes are accepted all along, except for the last
        few that are carried over just before it. On any error, and after a kill, the old index is the shard's
        and nothing acknowledged is lost. Raises UserError RAG009 if `index_dir` is unfit, WorldError RAG003
        without room there, RAG006 if the copy does not hold the same points.
        """
        with self._moving:
            self._rehome_locked(Path(index_dir), tier)

    def seal(self) -> bool:
        """On SSD, quantise what was written since the index was built, if that is much; return if it was.

        Much is SEAL_POINTS and a fifth of the whole. The index moves aside and back, so searches and writes
        go on and all of `rehome` holds.
        """
        with self._moving:
            with self._engine:
                self._check_open()
                home, points = self._index.directory, self._catalog.points
                plain = points - self._index.sealed()
                if self._index.tier is not Tier.SSD or plain < max(SEAL_POINTS, points // 5):
                    return False
            self._rehome_locked(_aside(home), Tier.SSD)
            self._rehome_locked(home, Tier.SSD)
            return True

    def checkpoint(self) -> None:
        """Sync the index's files, so that the next open replays nothing older than now."""
        with self._writer:
            self._check_writable()
            self._checkpoint()

    def stats(self) -> Stats:
        with self._engine:
            self._check_open()
            return Stats(
                documents=len(self._catalog.documents),
                points=self._catalog.points,
                nbytes=self._index.nbytes(),
                seq=self._log.seq,
                digest=self._catalog.digest(),
                tier=self._index.tier,
                index_dir=str(self._index.directory),
                rebuilt=self._rebuilt,
            )

    def close(self) -> None:
        """Checkpoint and let go of files and locks; safe to call again. Later calls raise RAG006."""
        with self._moving, self._writer:
            if self._failed == _CLOSED:
                return
            try:
                if not self._failed:
                    self._checkpoint()
                    self._stamp()
            finally:
                with self._engine:
                    self._failed = _CLOSED
                    self._index.close()
                    self._log.close()
                    self._lock.release()

    def _rehome_locked(self, target: Path, tier: Tier) -> None:
        """Do the work of `rehome` for a caller that holds `_moving`."""
        with self._writer:
            self._check_writable()
            mark, catalog = self._log.mark, self._catalog.copy()
        if target.resolve() == self._index.directory.resolve():
            raise UserError("RAG009", f"{self.name} lives in {target} already", "name another directory")
        check_home(target, tier)
        index = None
        try:
            bare = replace(self._manifest, tier=tier.value, ckpt_seq=mark.seq, files={})
            manifest = build(self._log.path, target, bare)
            index = Index.open(target, manifest.dim, tier)
            new, mark = self._carry(Opened(index, catalog, manifest, ""), mark)
            verify(index, catalog)
            old = self._flip(new, mark)
        except BaseException as error:
            if index:
                index.close()
            discard(target, error)
            raise
        old.close()
        remove(old.directory)

    def _hits(self, query: Vectors, limit: int) -> list[Hit]:
        """Search the index; once it fails, give its manifest up. The caller holds `_engine`."""
        try:
            hits = self._index.search(query, limit)
            bare = [hit.id for hit in hits if not hit.payload]
            if bare:
                where = f"point {bare[0]} in {self._index.directory}"
                raise WorldError("RAG006", f"{where} has lost its text", "ask again in a moment")
        except WorldError as error:
            self._distrusted = True
            try:
                forget(self._index.directory)
            except OSError as left:
                error.add_note(f"the next open may load this index again: {left}")
            raise
        return hits

    def _write(self, op: Op) -> None:
        with self._engine:
            if not self._distrusted:
                self._manifest = self._manifest.touched(self._index.directory)
        self._log.append([op])
        try:
            self._apply(op)
        except WorldError as error:
            self._failed = f"operation {self._log.seq} is safe in the log but failed in the index: {error}"
            raise WorldError("RAG006", f"shard {self.name}: {self._failed}", "run `tierce up`") from error
        self._unsynced += len(op.chunks) if isinstance(op, Put) else 1
        if self._unsynced >= CHECKPOINT_POINTS:
            self._checkpoint()

    def _apply(self, op: Op) -> None:
        """Write new points, invisible until the catalog has them; then delete the old, invisible by now."""
        for batch in batches(op) if isinstance(op, Put) else ():
            with self._engine:
                self._index.upsert(*batch)
        with self._engine:
            ended = self._catalog.take(op)
        for at in range(0, len(ended), BATCH):
            with self._engine:
                self._index.delete(ended[at : at + BATCH])

    def _carry(self, new: Opened, mark: Mark) -> tuple[Opened, Mark]:
        """Apply to a new index what was logged after `mark`; return it as it is then, and the new mark."""
        end = self._log.mark
        if end.seq > mark.seq:
            new = replace(new, manifest=new.manifest.touched(new.index.directory))
        for record in replay(self._log.path, mark, end.seq):
            apply(record.op, new.index, new.catalog)
        return new, end

    def _flip(self, new: Opened, mark: Mark) -> Index:
        """Carry the last writes over and let `new` answer from now on; return the old index."""
        with self._writer:
            self._check_writable()
            new, _ = self._carry(new, mark)
            if new.index.count() != new.catalog.points or new.catalog.digest() != self._catalog.digest():
                raise WorldError("RAG006", f"{new.index.directory} does not hold what {self.name} holds")
            with self._engine:
                old = self._index
                self._index, self._catalog, self._manifest = new.index, new.catalog, new.manifest
                self._distrusted = False
            return old

    def _checkpoint(self) -> None:
        if self._manifest.files:  # nothing was written since they were hashed
            return
        with self._engine:
            if not self._distrusted:
                self._index.flush()
        self._record(replace(self._manifest, ckpt_seq=self._log.seq))
        self._unsynced = 0

    def _stamp(self) -> None:
        """Hash the flushed files of an index that was written to, so that the next open can tell damage."""
        if not self._manifest.files and not self._distrusted:
            self._record(replace(self._manifest, files=digests(self._index.directory)))

    def _record(self, manifest: Manifest) -> None:
        with self._engine:
            if not self._distrusted:
                manifest.write(self._index.directory)
                self._manifest = manifest

    def _check_open(self) -> None:
        if self._failed == _CLOSED:
            raise WorldError("RAG006", f"shard {self.name} is closed", "open it again")

    def _check_writable(self) -> None:
        if self._failed:
            raise WorldError(
                "RAG006", f"shard {self.name} takes no writes: {self._failed}", "run `tierce up`"
            )


_CLOSED = "it is closed"


def _aside(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.aside")


def _passage(shard: str, hit: Hit) -> Passage:
    row = hit.payload
    return Passage(row["text"], row["document"], row["heading"], row["start"], row["end"], hit.score, shard)
