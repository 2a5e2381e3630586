"""What an index directory says of itself: what it was built from, and the digests of its files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from actors.rag.oplog import fsync_dir
from placement.errors import WorldError

NAME = "MANIFEST.json"
#: The engine writes this file again at each load, from the settings that we give it.
_REWRITTEN = "edge_config.json"
#: The engine takes these files in at load and removes them.
_CONSUMED = "tracker_journal.dat"
_BLOCK = 1 << 18


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an index directory was built from; it may be loaded only for the same log, encoder and engine."""

    log: str
    fingerprint: str
    dim: int
    tier: str
    #: Every operation up to this one is in the index's synced files.
    ckpt_seq: int
    engine: str = "qdrant-edge-py " + version("qdrant-edge-py")
    format: int = 1
    #: Digests of the index's files; none once it was written to, until it is closed.
    files: dict[str, str] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Replace the manifest atomically; the index must be flushed before. RAG003 if the disk refuses."""
        draft = directory / f"{NAME}.new"
        try:
            with draft.open("w", encoding="utf-8") as file:
                json.dump(asdict(self), file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(directory / NAME)
            fsync_dir(directory)
        except OSError as error:
            raise WorldError(
                "RAG003", f"{draft} could not be written: {error.strerror}", "free space on that disk"
            ) from error

    def touched(self, directory: Path) -> Manifest:
        """Drop the digests durably, before the first write to the files; return what is there now."""
        if not self.files:
            return self
        bare = replace(self, files={})
        bare.write(directory)
        return bare

    def check(self, directory: Path) -> None:
        """Raise WorldError RAG006 with the first file that is not as it was when the digests were taken."""
        if not self.files:
            return
        now = digests(directory)
        for name in sorted(self.files.keys() | now.keys()):
            consumed = name.endswith(_CONSUMED) and name not in now
            if self.files.get(name) != now.get(name) and not consumed:
                raise WorldError(
                    "RAG006", f"{directory / 'shard' / name} is not as it was written", "build the index anew"
                )

    @classmethod
    def read(cls, directory: Path) -> Manifest | None:
        """Return the directory's manifest, None when it has none that can be read: build the index then."""
        try:
            found = cls(**json.loads((directory / NAME).read_text(encoding="utf-8")))
            return replace(found, files=dict(found.files))
        except (FileNotFoundError, ValueError, TypeError):
            return None


def forget(directory: Path) -> None:
    """Remove the manifest durably: the next open builds the index anew."""
    (directory / NAME).unlink(missing_ok=True)
    fsync_dir(directory)


def digests(directory: Path) -> dict[str, str]:
    """Return a digest per file of the flushed index, by its path in `shard`; each file is read once.

    Raises WorldError RAG006 for a file that cannot be read.
    """
    data = directory / "shard"
    try:
        return {
            path.relative_to(data).as_posix(): _digest(path)
            for path in sorted(data.rglob("*"))
            if path.is_file() and path.name != _REWRITTEN
        }
    except OSError as error:
        raise WorldError("RAG006", f"{error.filename or data} cannot be read: {error.strerror}") from error


def _digest(path: Path) -> str:
    """Hash the blocks that are not all zeros, with their places: the files are sparse, their holes unread."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb", buffering=0) as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while (at := _data(file.fileno(), at, size)) < size:
            block = os.pread(file.fileno(), _BLOCK, at)
            if block.count(0) != len(block):
                digest.update(at.to_bytes(8))
                digest.update(block)
            at += _BLOCK
    digest.update(size.to_bytes(8))
    return digest.hexdigest()


def _data(fd: int, at: int, size: int) -> int:
    """Return the first block at or after `at` that is no hole; `size` when only a hole follows."""
    if at >= size:
        return size
    try:
        return os.lseek(fd, at, os.SEEK_DATA) // _BLOCK * _BLOCK
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size
