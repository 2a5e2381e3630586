"""Build an index from a shard's log in a child process, because the engine holds the GIL for seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from actors.rag.catalog import point_ids
from actors.rag.index import BATCH, ORPHAN_S, Index, discard, erase, guard_space
from actors.rag.lock import DirLock
from actors.rag.manifest import Manifest, digests
from actors.rag.oplog import START, Put, Vectors, replay
from placement.errors import TierceError, UserError, WorldError
from placement.tiers import Tier

_BOOT = "import json, sys; job = json.loads(sys.argv[1]); sys.path[:] = job['path']; \
import actors.rag.build as build; sys.exit(build.run(job['work']))"


@dataclass(frozen=True, slots=True)
class Work:
    """Everything a build needs; all of it survives JSON."""

    parent: int
    log_path: str
    directory: str
    manifest: dict[str, Any]


def build(log_path: Path, directory: Path, manifest: Manifest) -> Manifest:
    """Make `directory` the index of the log's first `manifest.ckpt_seq` operations, in a child process.

    Returns the manifest with the digests of the files. The child dies with its parent. Raises what the child
    raised, typed, or WorldError RAG006 if it was killed; nothing of the index is left then.
    """
    work = asdict(Work(os.getpid(), str(log_path), str(directory), asdict(manifest)))
    job = json.dumps({"path": sys.path, "work": work})
    child = subprocess.Popen(
        [sys.executable, "-c", _BOOT, job], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        report = child.stdout.read() if child.stdout else ""
    if child.returncode == 0:
        return Manifest.read(directory) or manifest
    if not report:
        killed = WorldError("RAG006", f"building {directory} ended with exit status {child.returncode}")
        discard(directory, killed)
        raise killed
    family, code, message, hint = json.loads(report)
    raise (UserError if family == "user" else WorldError)(code, message, hint)


def run(work: dict[str, Any]) -> int:
    """Do one build; only the child calls this. Its standard input stays open as long as the parent lives."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    directory = Path(work["directory"])
    if os.getppid() != work["parent"]:  # an orphan must not create a directory that nobody will remove
        return 1
    try:
        lock = DirLock.acquire(directory, ORPHAN_S)
        if (
            os.getppid() != work["parent"]
        ):  # the parent's successor may have built here before we had the lock
            return 1
        fill(Path(work["log_path"]), directory, Manifest(**work["manifest"]), lock)
    except TierceError as error:
        family = "user" if isinstance(error, UserError) else "world"
        sys.stdout.write(json.dumps([family, error.code, error.message, error.hint]))
        return 1
    except Exception as error:  # noqa: BLE001  (reported to the parent, whose error it becomes)
        cause = f"building {directory} failed with {type(error).__name__}: {error}"
        sys.stdout.write(json.dumps(["world", "RAG006", cause, ""]))
        return 1
    return 0


def batches(put: Put) -> Iterator[tuple[tuple[str, ...], Vectors, list[dict[str, Any]]]]:
    """Yield ids, vectors and payloads of the points of `put`, BATCH at a time."""
    ids = point_ids(put)
    for at in range(0, len(ids), BATCH):
        part = slice(at, at + BATCH)
        rows = [
            {
                "document": put.document,
                "heading": chunk.heading,
                "start": chunk.start,
                "end": chunk.end,
                "text": chunk.text,
                "version": put.version,
            }
            for chunk in put.chunks[part]
        ]
        yield ids[part], put.vectors[part], rows


def fill(log_path: Path, directory: Path, manifest: Manifest, lock: DirLock | None = None) -> Manifest:
    """Do the work of `build` in this process: right for the child, or for a log without operations."""
    index = Index.open(directory, manifest.dim, Tier.parse(manifest.tier), lock=lock, fresh=True)
    try:
        last = {record.op.document: record.seq for record in replay(log_path, START, manifest.ckpt_seq)}
        for record in replay(log_path, START, manifest.ckpt_seq):
            if isinstance(record.op, Put) and last[record.op.document] == record.seq:
                guard_space(directory, 3 * record.op.vectors.nbytes)
                for batch in batches(record.op):
                    index.upsert(*batch)
        if index.tier is Tier.SSD:
            index.seal()
        index.flush()
        built = replace(manifest, files=digests(directory))
        built.write(directory)
    except BaseException:
        index.close()
        erase(directory)
        raise
    index.close()
    return built


def _die_with_parent() -> None:
    os.read(0, 1)  # returns at the end of the pipe; no buffered reader, whose lock would break the exit
    os._exit(1)
