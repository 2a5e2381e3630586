"""Cut a document where its structure allows: headings, paragraphs and speeches, sentences, words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

TARGET_CHARS = 600
#: Changing how documents are cut changes their version, so shards re-index on the next ingest.
CHUNKER = "1"

_HEADING = re.compile(r"^ {0,3}(#{1,6})\s+(.*?)[\s#]*$")
_FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
_SPEAKER = re.compile(r"^([A-Z][\w .,'&-]{0,38}):\s*$")
_SENTENCE_END = re.compile(r"[.!?][\"'\u201d\u2019)\]]*\s+")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a document: `text` is exactly the document's characters [start, end)."""

    text: str
    start: int
    end: int
    #: Where it stands: "Book I > Of justice", a speaker's name last when a long speech goes on.
    heading: str
    document: str


@dataclass(frozen=True, slots=True)
class _Block:
    kind: str  # "heading" | "code" | "speech" | "prose"
    start: int
    end: int
    level: int = 0
    title: str = ""


@dataclass(frozen=True, slots=True)
class _Piece:
    start: int
    end: int
    heading: str
    kind: str


def chunk_document(text: str, name: str, *, target_chars: int = TARGET_CHARS) -> list[Chunk]:
    """Cut `text` into chunks of about `target_chars`, at most 1.5 times that plus an eighth of overlap.

    Every character that is not white space is in a chunk. Chunks never cross a heading, except that headings
    with nothing under them go with what follows. Neighbours overlap by at most a short last sentence, inside
    one section only. A code fence stays whole if it fits. A text of white space gives no chunk.
    """
    limit = target_chars + target_chars // 2
    pieces = list(_pieces(text, limit, plain=not name.lower().endswith(".md")))
    chunks: list[Chunk] = []
    for group in _packed(pieces, target_chars, limit):
        start, end = group[0].start, group[-1].end
        heading = next((piece.heading for piece in group if piece.kind != "heading"), group[-1].heading)
        if chunks and chunks[-1].heading == heading and group[0].kind not in {"heading", "code"}:
            start = _overlap_start(text, chunks[-1], start, target_chars // 8)
        chunks.append(Chunk(text[start:end], start, end, heading, name))
    return chunks


def _blocks(text: str, *, plain: bool) -> Iterator[_Block]:
    """Headings, fenced code and runs of lines without an empty one; offsets include the line ends."""
    start = offset = 0
    fence = ""
    for line in text.splitlines(keepends=True):
        begin, offset = offset, offset + len(line)
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence):
                yield _Block("code", start, offset)
                start, fence = offset, ""
            continue
        title = None if plain else _HEADING.match(line.rstrip())
        if mark or title or not line.strip():
            if start < begin:
                yield _paragraph(text, start, begin, plain=plain)
            start = begin if mark else offset
            fence = mark[1] if mark else ""
        if title and not mark:
            yield _Block("heading", begin, offset, len(title[1]), title[2].strip())
    if start < offset:
        yield _Block("code", start, offset) if fence else _paragraph(text, start, offset, plain=plain)


def _paragraph(text: str, start: int, end: int, *, plain: bool) -> _Block:
    lines = text[start:end].strip().splitlines()
    first = lines[0].strip() if lines else ""
    if (
        plain
        and len(lines) == 1
        and len(first) <= 60
        and first.isupper()
        and sum(map(str.isalpha, first)) > 2
    ):
        return _Block("heading", start, end, 1, first.rstrip("."))
    speaker = _SPEAKER.match(first)
    return (
        _Block("speech", start, end, 0, speaker[1])
        if speaker and len(lines) > 1
        else _Block("prose", start, end)
    )


def _pieces(text: str, limit: int, *, plain: bool) -> Iterator[_Piece]:
    """Blocks cut to `limit`, trimmed of white space, each with its heading path."""
    path: list[tuple[int, str]] = []
    for block in _blocks(text, plain=plain):
        if block.kind == "heading":
            path = [entry for entry in path if entry[0] < block.level]
            if block.title:
                path.append((block.level, block.title))
        heading = " > ".join(title for _, title in path)
        going_on = heading
        if block.kind == "speech":
            going_on = f"{heading} > {block.title}" if heading else block.title
        for start, end in _cut(text, block, limit):
            yield _Piece(start, end, heading, block.kind)
            heading = going_on


def _cut(text: str, block: _Block, limit: int) -> Iterator[tuple[int, int]]:
    start, stop = _trim(text, block.start, block.end)
    while stop - start > limit:
        end = _best_cut(text, start, start + limit, block.kind)
        yield _trim(text, start, end)
        start, stop = _trim(text, end, stop)
    if start < stop:
        yield start, stop


def _best_cut(text: str, start: int, limit: int, kind: str) -> int:
    """The last sentence end, else line end, else word end in [start, limit]; code: line end first."""
    floor = start + (limit - start) // 3
    if kind != "code":
        sentence = max((m.end() for m in _SENTENCE_END.finditer(text, start, limit)), default=0)
        if sentence > floor:
            return sentence
    line = text.rfind("\n", floor, limit) + 1
    if line:
        return line
    word = max((m.end() for m in _SPACE.finditer(text, floor, limit)), default=0)
    return word or limit


def _packed(pieces: list[_Piece], target: int, limit: int) -> Iterator[list[_Piece]]:
    """Group neighbours of one section until `target`; a small rest may grow to `limit`."""
    group: list[_Piece] = []
    for piece in pieces:
        if group and not _joins(group, piece, target, limit):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _joins(group: list[_Piece], piece: _Piece, target: int, limit: int) -> bool:
    start, end = group[0].start, group[-1].end
    if piece.end - start > limit:
        return False
    if all(member.kind == "heading" for member in group):
        return True
    if piece.kind == "heading" or piece.heading != group[-1].heading:
        return False
    return piece.end - start <= target or end - start < target // 4


def _overlap_start(text: str, previous: Chunk, start: int, overlap: int) -> int:
    """Where the last sentence of the previous chunk begins, if it is short enough."""
    low = max(previous.start + 1, start - overlap)
    for match in _SENTENCE_END.finditer(text, low, previous.end):
        if match.end() < previous.end:
            return match.end()
    return start


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), max(start, end - len(part) + len(part.rstrip()))
