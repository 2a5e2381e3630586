"""Writing to a disk so that what was written is there after a power cut, or an error says that it is not."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from placement.errors import WorldError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def disk(doing: str) -> Iterator[None]:
    """Turn an OSError of the block into WorldError STO005, which says what could not be done."""
    try:
        yield
    except OSError as error:
        raise WorldError("STO005", f"cannot {doing}: {error.strerror or error}") from error


def write(target: Path, content: bytes | memoryview) -> None:
    """Put `content` into `target`, whole or not at all."""
    temporary = target.with_name(target.name + ".tmp")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(target)
    sync(target.parent)


def sync(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def nbytes_under(folder: Path) -> int:
    """Return the bytes of the files in `folder` (not of those further down); 0 if there is none."""
    try:
        with os.scandir(folder) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.is_file(follow_symlinks=False))
    except FileNotFoundError:
        return 0
