"""Writing to a disk so that what was written is there after a power cut, or an error says that it is not."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from placement.errors import WorldError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK = "LOCK"
#: An owner that is started again may come up while the one before is still dying.
LOCK_WAIT_S = 5.0


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


def remove(folder: Path) -> None:
    """Remove a folder: whenever that is cut off, it is there whole or not at all. None is no fault."""
    gone = folder.with_name(f"{folder.name}.gone.tmp")
    shutil.rmtree(gone, ignore_errors=True)
    try:
        folder.replace(gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


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


def locked(root: Path) -> int:
    """Return the descriptor of a lock on `root`, which ends with it or with this process.

    Raises WorldError STO007 if another owner still has it after LOCK_WAIT_S.
    """
    root.mkdir(parents=True, exist_ok=True)
    lock = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    until_s = time.monotonic() + LOCK_WAIT_S
    try:
        while not _flocked(lock):
            if time.monotonic() >= until_s:
                hint = "give each node, and each lab, an ssd path of its own, or stop the other one"
                raise WorldError("STO007", f"another Store has {root} open", hint)
            time.sleep(0.05)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _flocked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
