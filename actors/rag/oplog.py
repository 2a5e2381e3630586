"""The durable truth of a shard: an append-only log of documents with their texts and vectors."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.rag.chunk import Chunk
from placement.errors import UserError, WorldError

#: A frame is HEAD, body, TAIL. HEAD: magic, body length, sequence number, CRC-32 of these three.
#: TAIL: CRC-32 of the body seeded with the head's, so a body under a foreign head is caught too.
HEAD = struct.Struct("<4sIQI")
TAIL = struct.Struct("<I")
MAGIC = b"TOPL"

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Header:
    """Who the log belongs to: `log` is its own id, `dim` and `fingerprint` those of its vectors."""

    log: str
    dim: int
    fingerprint: str
    format: int = 1


@dataclass(frozen=True, slots=True)
class Put:
    """`document` now has this version and exactly these chunks; `vectors` is float32 [chunks, dim]."""

    document: str
    version: str
    chunks: tuple[Chunk, ...]
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class Remove:
    """`document` is gone."""

    document: str


Op = Put | Remove


@dataclass(frozen=True, slots=True)
class Record:
    """One durable operation."""

    seq: int
    op: Op


@dataclass(frozen=True, slots=True)
class Mark:
    """A place between two records: `seq` is the one before, `offset` the byte where the next one starts."""

    seq: int = -1
    offset: int = 0


START = Mark()


@dataclass(frozen=True, slots=True)
class Torn:
    """Bytes of an unfinished, never acknowledged append, cut off at open and kept in `saved`."""

    offset: int
    nbytes: int
    saved: str


@dataclass(frozen=True, slots=True)
class _Frame:
    seq: int
    end: int
    body: bytes


class Oplog:
    """The one writer of a log file. Not thread-safe; its owner serialises the calls."""

    def __init__(self, path: Path, fd: int, header: Header, mark: Mark, torn: Torn | None) -> None:
        self.path = path
        #: The end of the log now, from which `replay` goes on later. Any thread may read it.
        self.mark = mark
        self.header = header
        self.torn = torn
        self._fd = fd
        self._failed = ""

    @classmethod
    def create(cls, path: Path, header: Header) -> Oplog:
        """Write a new log: complete under its name or not there at all. FileExistsError if it exists."""
        if path.exists():
            raise FileExistsError(path)
        draft = path.with_suffix(".new")
        with draft.open("wb") as file:
            file.write(_frame(0, json.dumps(asdict(header)).encode()))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        fsync_dir(path.parent)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Oplog:
        """Read the whole file through its checksums, cut off a torn tail, and stand ready to append.

        Raises WorldError RAG004, with the file and the offset, when a byte in the middle was changed.
        """
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            end, seq, header = 0, -1, b""
            for frame in _frames(fd, path, size, START):
                end, seq, header = frame.end, frame.seq, header or frame.body
            own = _header(path, header)
            torn = _cut(fd, path, end, size) if end < size else None
            return cls(path, fd, own, Mark(seq, end), torn)
        except BaseException:
            os.close(fd)
            raise

    @property
    def seq(self) -> int:
        """The sequence number of the last durable operation; 0 when there is none."""
        return self.mark.seq

    @property
    def nbytes(self) -> int:
        return self.mark.offset

    def append(self, ops: Sequence[Op]) -> int:
        """Make the operations durable in one write and one sync; return the last sequence number.

        When this returns they survive kill -9 and power loss. Raises WorldError RAG003 if the disk refuses:
        then none of them was acknowledged, and none will reappear unless the sync itself failed.
        """
        if self._failed:
            raise WorldError("RAG006", f"{self.path} took no more writes: {self._failed}", "run `tierce up`")
        data = b"".join(_frame(self.seq + 1 + i, _body(op)) for i, op in enumerate(ops))
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._fd, memoryview(data)[written:], self.nbytes + written)
        except OSError as error:
            os.ftruncate(self._fd, self.nbytes)
            raise _refused(self.path, len(data), error) from error
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._failed = (
                f"sync failed ({error.strerror})"  # the kernel may have dropped the pages: never retry
            )
            raise _refused(self.path, len(data), error) from error
        self.mark = Mark(self.seq + len(ops), self.nbytes + len(data))
        return self.seq

    def close(self) -> None:
        """Close the file; nothing is pending, because every append was synced."""
        os.close(self._fd)


def replay(path: Path, mark: Mark, until_seq: int) -> Iterator[Record]:
    """Yield the operations after `mark` up to `until_seq`, in order. Safe beside a live writer."""
    if mark.seq >= until_seq:
        return
    with path.open("rb") as file:
        for frame in _frames(file.fileno(), path, os.fstat(file.fileno()).st_size, mark):
            if frame.seq > 0:
                yield Record(frame.seq, _op(frame.body))
            if frame.seq >= until_seq:
                return


def check_text(put: Put) -> None:
    """Refuse text that has no UTF-8 form before the log takes it. Raises UserError DOC011."""
    for text in (put.document, put.version, *(f"{chunk.heading}{chunk.text}" for chunk in put.chunks)):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                "DOC011", f"{put.document!r}: text with a lone surrogate at {error.start}"
            ) from error


def fsync_dir(directory: Path) -> None:
    """Make a rename or a creation in `directory` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _header(path: Path, body: bytes) -> Header:
    if not body:
        raise _damaged(path, 0, "its first record, which says whose log it is, is missing")
    return Header(**json.loads(body))


def _frame(seq: int, body: bytes) -> bytes:
    head = HEAD.pack(MAGIC, len(body), seq, 0)[:-4]
    crc = zlib.crc32(head)
    return head + TAIL.pack(crc) + body + TAIL.pack(zlib.crc32(body, crc))


def _body(op: Op) -> bytes:
    if isinstance(op, Remove):
        fields: dict[str, Any] = {"op": "remove", "document": op.document}
        vectors = b""
    else:
        chunks = [[chunk.start, chunk.end, chunk.heading, chunk.text] for chunk in op.chunks]
        fields = {"op": "put", "document": op.document, "version": op.version, "chunks": chunks}
        vectors = np.ascontiguousarray(op.vectors, dtype="<f4").tobytes()
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    return TAIL.pack(len(text)) + text + vectors


def _op(body: bytes) -> Op:
    (length,) = TAIL.unpack_from(body)
    fields = json.loads(body[TAIL.size : TAIL.size + length])
    if fields["op"] == "remove":
        return Remove(fields["document"])
    document = fields["document"]
    chunks = tuple(
        Chunk(text, start, end, heading, document) for start, end, heading, text in fields["chunks"]
    )
    vectors = np.frombuffer(body, dtype="<f4", offset=TAIL.size + length).reshape(len(chunks), -1)
    return Put(document, fields["version"], chunks, vectors)


def _frames(fd: int, path: Path, size: int, mark: Mark) -> Iterator[_Frame]:
    """Yield frames up to the end or a torn tail; a damaged frame raises."""
    offset, expected = mark.offset, mark.seq + 1
    while size - offset >= HEAD.size:
        head = os.pread(fd, HEAD.size, offset)
        magic, length, seq, crc = HEAD.unpack(head)
        if magic != MAGIC or crc != zlib.crc32(head[:-4]):
            if _all_zero(fd, offset, size):
                return
            raise _damaged(path, offset, "the record's head fails its checksum")
        if seq != expected:
            raise _damaged(path, offset, f"record {expected} was due, {seq} is here")
        end = offset + HEAD.size + length + TAIL.size
        if end > size:
            return
        data = os.pread(fd, length + TAIL.size, offset + HEAD.size)
        (stored,) = TAIL.unpack_from(data, length)
        body = data[:length]
        if zlib.crc32(body, crc) != stored:
            if end == size and stored == 0:  # the file grew, the data never came: a power loss in mid-append
                return
            raise _damaged(path, offset, f"the body of record {seq} ({length} bytes) fails its checksum")
        yield _Frame(seq, end, body)
        offset, expected = end, expected + 1


def _all_zero(fd: int, offset: int, size: int) -> bool:
    while offset < size:
        block = os.pread(fd, min(1 << 20, size - offset), offset)
        if block.count(0) != len(block):
            return False
        offset += len(block)
    return True


def _cut(fd: int, path: Path, end: int, size: int) -> Torn:
    saved = path.with_name(f"{path.name}.torn-{end}")
    saved.write_bytes(os.pread(fd, size - end, end))
    os.ftruncate(fd, end)
    os.fsync(fd)
    return Torn(end, size - end, str(saved))


def _damaged(path: Path, offset: int, why: str) -> WorldError:
    hint = "acknowledged writes may follow this point, so nothing was cut: restore the file from a copy"
    return WorldError("RAG004", f"{path} is damaged at byte {offset}: {why}", hint)


def _refused(path: Path, nbytes: int, error: OSError) -> WorldError:
    return WorldError(
        "RAG003", f"{path} could not take {nbytes} bytes: {error.strerror}", "free space on that disk"
    )
