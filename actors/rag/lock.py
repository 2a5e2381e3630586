"""Who may go: one owner per directory, and fair turns among threads."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from pathlib import Path

from placement.errors import TierceError, UserError, WorldError


class Turns:
    """A lock that a thread in a tight loop cannot keep from the others, as it can a `threading.Lock`.

    Who waits stands in the door, so the one inside cannot come straight back in.
    """

    def __init__(self) -> None:
        self._door = threading.Lock()
        self._inside = threading.Lock()

    def __enter__(self) -> None:
        with self._door:
            self._inside.acquire()

    def __exit__(self, *exception: object) -> None:
        self._inside.release()


class DirLock:
    """An exclusive `flock` on `<directory>/LOCK`, held until `release()` or the death of the process."""

    NAME = "LOCK"

    def __init__(self, directory: Path, fd: int) -> None:
        self.directory = directory
        self._fd = fd

    @classmethod
    def acquire(cls, directory: Path, wait_s: float = 0.0) -> DirLock:
        """Create the directory if needed and take its lock, waiting up to `wait_s` for its owner to die.

        Raises WorldError RAG005 when another owner, in this process or another, holds it then, RAG003 on a
        full disk, UserError RAG009 for a directory that cannot be written to.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            fd = os.open(directory / cls.NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _refused(directory, error) from error
        try:
            cls._take(directory, fd, wait_s)
        except OSError as error:
            os.close(fd)
            raise _refused(directory, error) from error
        except BaseException:
            os.close(fd)
            raise
        return cls(directory, fd)

    @staticmethod
    def _take(directory: Path, fd: int, wait_s: float) -> None:
        until_s = time.monotonic() + wait_s
        while not _locked(fd):
            if time.monotonic() >= until_s:
                holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise WorldError(
                    "RAG005",
                    f"{directory} is in use by process {holder}",
                    "one process owns a shard at a time: stop that one, or wait for it to let go",
                )
            time.sleep(0.02)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let go; the file stays, because removing it would race with the next owner."""
        os.close(self._fd)


def _refused(directory: Path, error: OSError) -> TierceError:
    message = f"{directory} cannot be locked: {error.strerror}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return WorldError("RAG003", message, "free space on that disk")
    return UserError("RAG009", message, "name a directory that this user can write to")


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
