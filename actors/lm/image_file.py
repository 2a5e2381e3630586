"""An image on this machine's disk as an array, without reading it into memory of its own first.

A mapping is as fast as memory, but touching a page that cannot be had (the file was cut, the disk failed)
ends the process. So the pages are asked for first, by a call that answers with an error, and while the
array is used a lease on the file keeps everybody from opening it for writing or cutting it: they wait until
it is given back. Where file system or kernel have no leases, the file is read instead, at the cost of a copy.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import mmap
import os
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actors.lm.disk import disk
from placement.errors import WorldError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from actors.lm.loader import Pace

#: Linux: these are in no module of Python 3.11.
F_SETSIG = 10
MADV_POPULATE_READ = 22
HASHED_NBYTES = 1 << 20
AGAIN = "it will be copied again"


@dataclass(frozen=True, slots=True)
class Stamp:
    """By what a file is told from another, and from itself before it was written again: no content."""

    mtime_ns: int
    nbytes: int
    inode: int

    @classmethod
    def of(cls, file: Path | int) -> Stamp:
        """Return the stamp of a path or an open descriptor. Raises OSError."""
        told = os.fstat(file) if isinstance(file, int) else file.stat()
        return cls(told.st_mtime_ns, told.st_size, told.st_ino)


def digest_of(path: Path, pace: Pace) -> str:
    """Return `image_digest` of a file, read in pieces; `pace` is called with the bytes of each.

    Raises OSError.
    """
    digest, buffer = hashlib.blake2b(digest_size=32), bytearray(HASHED_NBYTES)
    with path.open("rb", buffering=0) as stream:
        while got := stream.readinto(buffer):
            digest.update(memoryview(buffer)[:got])
            pace(got)
    return digest.hexdigest()


@contextmanager
def opened(path: Path, stamp: Stamp | None = None) -> Iterator[NDArray[np.uint8]]:
    """Give the bytes of a file, read only; the array must not be used after the block.

    Raises WorldError STO001 if there is no file, STO002 if it is not the one of `stamp`, before or after the
    block, STO005 for what the disk says.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise WorldError("STO001", f"{path} is gone", AGAIN) from error
    except OSError as error:
        raise WorldError("STO005", f"cannot open {path}: {error.strerror}") from error
    try:
        leased = _lease(descriptor)
        try:
            found = _checked(path, descriptor, stamp)
            with disk(f"read {path}"):
                image = _mapped(descriptor, found.nbytes) if leased else None
                image = _read(descriptor, found.nbytes) if image is None else image
            _checked(path, descriptor, found)
            yield image
        finally:
            if leased:  # closing would not do: the mapping holds the file open, and the lease with it
                fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    finally:
        os.close(descriptor)


def _checked(path: Path, descriptor: int, stamp: Stamp | None) -> Stamp:
    found = Stamp.of(descriptor)
    if stamp is not None and found != stamp:
        raise WorldError("STO002", f"{path} was written again meanwhile ({found}, was {stamp})", AGAIN)
    return found


def _lease(descriptor: int) -> bool:
    """Keep writers out until the lease is given back; say whether that can be had."""
    try:
        # The signal that tells of a waiting writer must be one that does nothing: SIGIO would end us.
        fcntl.fcntl(descriptor, F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return False
    return True


def _mapped(descriptor: int, nbytes: int) -> NDArray[np.uint8] | None:
    """Map a file and have all of its pages there; None if this kernel cannot say whether they are."""
    if not nbytes:
        return None
    try:
        image = np.frombuffer(mmap.mmap(descriptor, nbytes, prot=mmap.PROT_READ), np.uint8)
    except ValueError as error:
        raise OSError(0, f"it has no {nbytes} bytes any more") from error
    # Not mmap.madvise: that holds the GIL while the disk is read.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return image if libc.madvise(image.ctypes.data, nbytes, MADV_POPULATE_READ) == 0 else None


def _read(descriptor: int, nbytes: int) -> NDArray[np.uint8]:
    """Read a file whole; what a disk cannot give, or no longer has, is an OSError."""
    image = np.empty(nbytes, np.uint8)
    at = 0
    while at < nbytes:
        got = os.preadv(descriptor, [image[at:].data], at)
        if not got:
            raise OSError(0, f"it ends after {at} of {nbytes} bytes")
        at += got
    return image
