"""Read a directory of .txt and .md files and bring a shard to exactly their content."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from actors.rag.chunk import CHUNKER, Chunk, chunk_document
from actors.rag.oplog import Vectors
from actors.rag.shelf import Shelf
from placement.errors import UserError
from placement.units import format_bytes

SUFFIXES = {".txt", ".md"}
MAX_NBYTES = 64 << 20

Encode = Callable[[list[str]], Vectors]


@dataclass(frozen=True, slots=True)
class Document:
    """A text to index; `name` is its path under the source, with slashes. Offsets count its characters."""

    name: str
    text: str

    @property
    def version(self) -> str:
        """A hash of the text and of the way it is cut: equal versions need no new vectors."""
        return hashlib.blake2b(f"{CHUNKER}\0{self.text}".encode(), digest_size=12).hexdigest()

    def chunks(self) -> list[Chunk]:
        return chunk_document(self.text, self.name)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is not indexed, and why; the others are. An `empty` one says that its text is withdrawn."""

    name: str
    code: str
    reason: str
    empty: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.reason} [{self.code}]"


@dataclass(frozen=True, slots=True)
class Report:
    """What one ingest did: `documents` and `chunks` were written, `removed` documents left the source."""

    documents: int
    chunks: int
    unchanged: int
    removed: int
    skipped: tuple[Skipped, ...]


def read_documents(source: str | Path) -> Iterator[Document | Skipped]:
    """Yield every file under `source` (a directory, or one file), in the order of their names.

    Only UTF-8 and UTF-16 (with its mark) .txt and .md files of at most 64 MiB with some text in them are
    documents. Links are followed only to files inside. Raises UserError RAG010 if `source` is not there or
    a directory in it cannot be read.
    """
    root = Path(source)
    if not root.exists():
        raise UserError("RAG010", f"{root} does not exist", "name a directory with .txt or .md files")
    if root.is_file():
        yield _read(root, root.name, root.parent)
        return
    for path in sorted(_files(root)):
        yield _read(path, path.relative_to(root).as_posix(), root)


def ingest(source: str | Path, shelf: Shelf, encode: Encode) -> Report:
    """Bring `shelf` to the content of `source`: add what is new or changed, remove what is gone.

    Running it again changes nothing. A file that can no longer be read keeps its last good version; one that
    was emptied is removed. Raises UserError RAG010, and removes nothing, if the source holds no document at
    all or a directory in it cannot be read.
    """
    before = shelf.documents()
    seen: set[str] = set()
    skipped: list[Skipped] = []
    written = chunks = unchanged = 0
    for found in read_documents(source):
        if not (isinstance(found, Skipped) and found.empty):
            seen.add(found.name)
        if isinstance(found, Skipped):
            skipped.append(found)
        elif before.get(found.name) == found.version:
            unchanged += 1
        else:
            parts = found.chunks()
            shelf.add(found.name, found.version, parts, encode([part.text for part in parts]))
            written, chunks = written + 1, chunks + len(parts)
    if written + unchanged == 0:
        why = f"; {len(skipped)} files were skipped, the first: {skipped[0]}" if skipped else ""
        raise UserError(
            "RAG010", f"{source} holds no document{why}", "name a directory with .txt or .md files"
        )
    gone = sorted(before.keys() - seen)
    for name in gone:
        shelf.remove(name)
    shelf.seal()
    return Report(written, chunks, unchanged, len(gone), tuple(skipped))


def _files(root: Path) -> Iterator[Path]:
    """Every file and linked directory under `root`, hidden ones left out."""
    for directory, subdirectories, names in os.walk(root, onerror=_unread):
        here = Path(directory)
        subdirectories[:] = [name for name in subdirectories if not name.startswith(".")]
        yield from (here / name for name in subdirectories if (here / name).is_symlink())
        yield from (here / name for name in names if not name.startswith("."))


def _unread(error: OSError) -> None:
    """Stop: what is in a directory that cannot be read must not count as gone."""
    raise UserError(
        "RAG010", f"{error.filename} cannot be read: {error.strerror}", "make it readable, or hide it: .name"
    ) from error


def _read(path: Path, name: str, root: Path) -> Document | Skipped:
    shown = name.encode("utf-8", "backslashreplace").decode()
    if shown != name:
        return Skipped(shown, "DOC011", "its name is not UTF-8")
    if not path.resolve().is_relative_to(root.resolve()):
        return Skipped(name, "DOC011", f"a link that leads out of {root}")
    if path.suffix.lower() not in SUFFIXES:
        return Skipped(name, "DOC011", f"only {' and '.join(sorted(SUFFIXES))} files are read")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return Skipped(name, "DOC011", "not a regular file")
        if status.st_size > MAX_NBYTES:
            return Skipped(
                name, "DOC010", f"{format_bytes(status.st_size)}, {format_bytes(MAX_NBYTES)} are the most"
            )
        text = _decode(path.read_bytes())
    except OSError as error:
        return Skipped(name, "DOC011", f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        return Skipped(
            name,
            "DOC011",
            f"not {error.encoding} text: byte {error.start} is {error.object[error.start]:#04x}",
        )
    if "\0" in text:
        return Skipped(name, "DOC011", f"binary: a NUL at character {text.index(chr(0))}")
    if not text.strip():
        return Skipped(name, "DOC011", "empty", empty=True)
    return Document(name, text)


def _decode(data: bytes) -> str:
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return data.decode("utf-16")
    return data.decode("utf-8-sig")
