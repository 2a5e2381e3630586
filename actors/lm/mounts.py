"""The table of mounts: on which kind of file system a path lies, and whether that outlives the power."""

from __future__ import annotations

import os
import re
from pathlib import Path

TABLE = Path("/proc/self/mountinfo")
#: File systems in memory: what lies on them is gone with the power.
VOLATILE = frozenset({"tmpfs", "ramfs", "devtmpfs"})


def read_table() -> str:
    """Return this process's table of mounts; "" where the system has none (macOS)."""
    try:
        return TABLE.read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""


def file_system(path: str, table: str) -> str:
    """Return the type of the file system that holds `path`, an absolute path without links; "" if unknown.

    `table` is as in /proc/self/mountinfo: the longest mount point wins, of equals the one mounted last.
    """
    found, depth = "", -1
    for line in table.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = _unescaped(fields[4])
        if len(point) >= depth and _holds(point, path):
            found, depth = after.split(" ")[0], len(point)
    return found


def is_volatile(paths: tuple[str, ...], table: str) -> bool:
    """Tell whether any of `paths`, its links followed, lies in memory only."""
    return any(file_system(os.path.realpath(path), table) in VOLATILE for path in paths)


def _holds(point: str, path: str) -> bool:
    return point in {"/", path} or path.startswith(point + "/")


def _unescaped(field: str) -> str:
    r"""Undo the kernel's octal escapes (a blank is `\040`)."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)
