"""Bring a shard's log and its index together: load and replay the tail, or build the index anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from actors.rag.build import batches, build, fill
from actors.rag.catalog import Catalog, same_points
from actors.rag.index import BATCH, ORPHAN_S, Index, check_home
from actors.rag.lock import DirLock
from actors.rag.manifest import Manifest
from actors.rag.oplog import START, Header, Op, Oplog, Put, replay
from placement.errors import UserError, WorldError
from placement.tiers import Tier


@dataclass(frozen=True, slots=True)
class Opened:
    """An index that holds what its log says; `rebuilt` says why it was built anew, "" if it was loaded."""

    index: Index
    catalog: Catalog
    manifest: Manifest
    rebuilt: str


def apply(op: Op, index: Index, catalog: Catalog) -> None:
    """Bring an index that nobody searches yet, and its catalog, past `op`; safe to repeat."""
    if isinstance(op, Put):
        for batch in batches(op):
            index.upsert(*batch)
    ended = catalog.take(op)
    for at in range(0, len(ended), BATCH):
        index.delete(ended[at : at + BATCH])


def open_log(path: Path, dim: int, fingerprint: str) -> Oplog:
    """Open the log, or create it; UserError CFG063 if its vectors came from another encoder."""
    if not path.exists():
        return Oplog.create(path, Header(uuid4().hex, dim, fingerprint))
    log = Oplog.open(path)
    own = log.header
    if (own.dim, own.fingerprint) != (dim, fingerprint):
        log.close()
        raise UserError(
            "CFG063",
            f"{path} holds vectors of {own.fingerprint} ({own.dim} dimensions), "
            f"the encoder here is {fingerprint} ({dim})",
            "use the encoder that made them, or empty the shard's directory and ingest again",
        )
    return log


def open_index(log: Oplog, directory: Path, tier: Tier) -> Opened:
    """Load the index in `directory` and replay what it has not seen; build it anew if it is unfit.

    Unfit is one of another log, encoder, tier or engine, or whose files are not as they were written. Raises
    UserError RAG009, and changes nothing, for a directory that holds anything but an index.
    """
    check_home(directory, tier)
    wanted = Manifest(log.header.log, log.header.fingerprint, log.header.dim, tier.value, log.seq)
    found = Manifest.read(directory)
    if found and found.log == wanted.log and found.ckpt_seq > log.seq:
        raise WorldError(
            "RAG008",
            f"{log.path} ends at operation {log.seq}, {directory} has seen {found.ckpt_seq}: writes are lost",
            f"restore the newer log; or empty {directory} to go on without them",
        )
    why = _unfit(found, wanted)
    if found and not why:
        try:
            return _loaded(log, directory, found, "", _checked(directory, found))
        except WorldError as error:
            if error.code != "RAG006":
                raise
            why = error.message
    if log.seq == 0:
        return _loaded(log, directory, fill(log.path, directory, wanted), "")
    return _loaded(log, directory, build(log.path, directory, wanted), why)


def verify(index: Index, catalog: Catalog) -> None:
    """Raise WorldError RAG006 unless the index holds exactly the catalog's points, by count and ids."""
    count = index.count()
    if count != catalog.points or not same_points(index.ids(), catalog.ids()):
        raise WorldError(
            "RAG006", f"{index.directory} holds {count} points, not the {catalog.points} of the log"
        )


def _unfit(found: Manifest | None, wanted: Manifest) -> str:
    if found is None:
        return "no manifest"
    for field in ("log", "fingerprint", "dim", "tier", "engine", "format"):
        ours, theirs = getattr(wanted, field), getattr(found, field)
        if ours != theirs:
            return f"{field} was {theirs}, is {ours}"
    return ""


def _checked(directory: Path, manifest: Manifest) -> DirLock:
    """Take the directory's lock and compare the files with their digests; RAG006 if one differs."""
    lock = DirLock.acquire(directory, ORPHAN_S)
    try:
        manifest.check(directory)
    except BaseException:
        lock.release()
        raise
    return lock


def _loaded(
    log: Oplog, directory: Path, manifest: Manifest, rebuilt: str, lock: DirLock | None = None
) -> Opened:
    index = Index.open(directory, manifest.dim, Tier.parse(manifest.tier), lock=lock)
    catalog = Catalog()
    try:
        if log.seq > manifest.ckpt_seq:
            manifest = manifest.touched(directory)
        for record in replay(log.path, START, log.seq):
            if record.seq <= manifest.ckpt_seq:
                catalog.take(record.op)
            else:
                apply(record.op, index, catalog)
        verify(index, catalog)
    except BaseException:
        index.close()
        raise
    return Opened(index, catalog, manifest, rebuilt)
