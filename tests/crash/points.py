"""Every point at which a process can die between two changes of its files, found in its system calls.

A scene runs in a forked child under ptrace. The calls that change files (writes, syncs, renames, removals …)
are its crash points; `crash(scene, n)` runs it again and kills it with SIGKILL right before the n-th of them,
or, torn, after half of the bytes of a write. Nothing in the product is patched, SQLite's C code is seen too.
Linux on x86-64 only. What the page cache held is still there afterwards: this is kill -9 and not a power cut.
"""

import ctypes
import os
import platform
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass

TRACEME, CONT_TO_SYSCALL, GETREGS, POKEUSER, SETOPTIONS = 0, 24, 12, 6, 0x4200
TRACESYSGOOD, EXITKILL = 1, 1 << 20
SYSCALL_STOP = signal.SIGTRAP | 0x80
#: places in user_regs_struct, in words of 8 bytes
RDX, ORIG_RAX, RDI = 12, 15, 14
WORDS = 27

WRITES = {1: "write", 18: "pwrite64"}
CHANGES = {
    **WRITES,
    20: "writev",
    74: "fsync",
    75: "fdatasync",
    76: "truncate",
    77: "ftruncate",
    82: "rename",
    83: "mkdir",
    84: "rmdir",
    86: "link",
    87: "unlink",
    258: "mkdirat",
    263: "unlinkat",
    264: "renameat",
    285: "fallocate",
    296: "pwritev",
    316: "renameat2",
}
#: of a scene: it does its work and calls `done()` after each step that has returned
Scene = Callable[[Callable[[], None]], None]


@dataclass(frozen=True)
class Run:
    """How a run went: the names of the points that it passed, steps done, and whether it was killed."""

    points: tuple[str, ...]
    done: int
    killed: bool


def available() -> bool:
    """Tell whether this machine lets a process watch the calls of its child."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    child = os.fork()
    if child == 0:
        os._exit(0 if _libc().ptrace(TRACEME, 0, None, None) == 0 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    return libc


def crash(scene: Scene, at: int | None = None, *, torn: bool = False) -> Run:
    """Run a scene in a child; kill it right before its crash point number `at` (from 0), if it comes to that.

    With `torn`, half of the write at that point is done first. Raises AssertionError with the child's own
    words if it fails by itself.
    """
    libc = _libc()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _be_child(libc, scene, reading, writing)
    os.close(writing)
    try:
        points, status = _watch(libc, child, writing, at, torn=torn)
        told = b"".join(iter(lambda: os.read(reading, 65536), b""))
    finally:
        os.close(reading)
    done, _, fault = told.partition(b"!")
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or os.WEXITSTATUS(status) == 0, fault.decode()
    return Run(tuple(points), len(done), killed)


def _be_child(libc: ctypes.CDLL, scene: Scene, reading: int, writing: int) -> None:
    """Play the scene, tell each step on the pipe, and never come back."""
    status = 1
    try:
        os.close(reading)
        libc.ptrace(TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        scene(lambda: os.write(writing, b"."))
        status = 0
    except BaseException as error:  # noqa: BLE001  a fork must end here, whatever happens
        os.write(writing, f"!{type(error).__name__}: {error}".encode())
    finally:
        os._exit(status)


def _watch(libc: ctypes.CDLL, child: int, pipe: int, at: int | None, *, torn: bool) -> tuple[list[str], int]:
    """Let the child go from call to call; return the points that it passed and how it ended."""
    points: list[str] = []
    entering, dying = True, False
    _, status = os.waitpid(child, 0)
    libc.ptrace(SETOPTIONS, child, None, TRACESYSGOOD | EXITKILL)
    deliver = 0
    while True:
        libc.ptrace(CONT_TO_SYSCALL, child, None, deliver)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            return points, status
        deliver = os.WSTOPSIG(status)
        if deliver != SYSCALL_STOP:
            continue
        deliver = 0
        if dying:
            os.kill(child, signal.SIGKILL)
        elif entering:
            number, descriptor, nbytes = _call(libc, child)
            if number in CHANGES and descriptor != pipe:
                if len(points) == at:
                    dying = torn and number in WRITES and nbytes > 1
                    if dying:
                        libc.ptrace(POKEUSER, child, RDX * 8, nbytes // 2)
                    else:
                        os.kill(child, signal.SIGKILL)
                points.append(CHANGES[number])
        entering = not entering


def _call(libc: ctypes.CDLL, child: int) -> tuple[int, int, int]:
    """Return number, first and third argument of the call that a stopped child is about to make."""
    registers = ctypes.create_string_buffer(WORDS * 8)
    libc.ptrace(GETREGS, child, None, ctypes.addressof(registers))
    words = struct.unpack(f"<{WORDS}Q", registers.raw)
    return words[ORIG_RAX], words[RDI], words[RDX]
