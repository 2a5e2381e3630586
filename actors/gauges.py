"""Gauges: the physical memory behind a place, and how much of it is taken beside what the ledger counts.

Each function reads what the machine says now. `ours` is what the ledger counts at the place: the pressure of
a place is then (others + ledger) / total, whoever took the memory. No Ray.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from placement.state import Gauge

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
#: What cgroup v1 reports where nobody set a limit is a number of pages near 2**63.
UNLIMITED = 1 << 60


def ram_gauges(ours: int) -> tuple[Gauge, ...]:
    """Return the gauge of this machine's RAM and, if a cgroup grants less, that of the cgroup."""
    memory = psutil.virtual_memory()
    machine = Gauge(memory.total, max(0, memory.total - memory.available - ours), "psutil")
    try:
        own = OWN_CGROUPS.read_text()
    except FileNotFoundError:
        return (machine,)
    limits = [limit for limit in cgroup_limits(own, CGROUPS) if limit[0] < memory.total]
    if not limits:
        return (machine,)
    total, used = min(limits)
    return machine, Gauge(total, max(0, used - ours), "cgroup")


def cgroup_limits(own: str, root: Path) -> Iterator[tuple[int, int]]:
    """Yield (limit, used) of each cgroup that this process is in.

    `own` is the text of /proc/self/cgroup, `root` where cgroups are mounted; both versions are read. What the
    kernel takes back by itself does not count as used.
    """
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names, folder, reclaimable = ("memory.max", "memory.current"), root, "inactive_file"
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            folder, reclaimable = root / "memory", "total_inactive_file"
        else:
            continue
        inside = folder / path.lstrip("/")
        while inside.is_relative_to(folder):
            try:
                limit, used = ((inside / name).read_text().strip() for name in names)
                statistics = dict(
                    entry.split(maxsplit=1) for entry in (inside / "memory.stat").read_text().splitlines()
                )
            except OSError:
                limit = used = "max"  # a path of the host, or a group without this controller
                statistics = {}
            if limit != "max" and int(limit) < UNLIMITED:
                yield int(limit), max(0, int(used) - int(statistics.get(reclaimable, 0)))
            inside = inside.parent


def store_gauge(capacity: int, ours: int, used: int | None = None) -> Gauge:
    """Return the gauge of a node's object store; `used` by all labs where it is known."""
    return Gauge(capacity, max(0, (ours if used is None else used) - ours), "object store")


def disk_gauge(path: str | Path, ours: int) -> Gauge:
    """Return the gauge of the disk with `path`; what it reserves for root counts as taken. Raises OSError."""
    found = os.statvfs(path)
    total = found.f_blocks * found.f_frsize
    return Gauge(total, max(0, total - found.f_bavail * found.f_frsize - ours), "statvfs")


def vram_gauge(device: str, ours: int, pynvml: Any = None) -> Gauge | None:
    """Return the gauge of a GPU, `cuda:<n>` of this process or NVML's UUID; None: only the ledger knows.

    None is for a CPU, a missing library or driver, and a device that NVML does not let us read (MIG,
    containers). What NVML gives as N/A is never taken for 0: without numbers per process, all but `ours`
    belongs to others.
    """
    if not device.startswith(("cuda", "GPU-", "MIG-")):
        return None
    if pynvml is None:
        try:
            pynvml = import_module("pynvml")
        except ImportError:
            return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return _read(device, ours, pynvml)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _read(device: str, ours: int, pynvml: Any) -> Gauge | None:
    handle = _handle(device, os.environ.get("CUDA_VISIBLE_DEVICES"), pynvml)
    if handle is None:
        return None
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    if not isinstance(memory.total, int) or not isinstance(memory.used, int):
        return None
    processes = _processes(handle, pynvml)
    own = processes.get(os.getpid())
    # Of our own process only what the ledger counts is ours: its CUDA context and workspaces are nobody's.
    others = max(0, memory.used - (ours if own is None else min(ours, own)))
    if own is not None:
        foreign = sum(used for pid, used in processes.items() if pid != os.getpid() and used is not None)
        others = max(others, foreign)
    return Gauge(memory.total, min(others, memory.total), "NVML")


def _handle(device: str, visible: str | None, pynvml: Any) -> Any:
    """Return NVML's handle; None for a device that this process is not shown.

    CUDA counts only what CUDA_VISIBLE_DEVICES names, by numbers or UUIDs; NVML counts all.
    """
    if not device.startswith("cuda"):
        return pynvml.nvmlDeviceGetHandleByUUID(device)
    number = int(device.partition(":")[2] or 0)
    shown = None if visible is None else [name.strip() for name in visible.split(",") if name.strip()]
    if shown is None:
        return pynvml.nvmlDeviceGetHandleByIndex(number)
    if number >= len(shown):
        return None
    name = shown[number]
    if name.isdecimal():
        return pynvml.nvmlDeviceGetHandleByIndex(int(name))
    return pynvml.nvmlDeviceGetHandleByUUID(name)


def _processes(handle: Any, pynvml: Any) -> dict[int, int | None]:
    """Return the bytes of each process on the device; None for N/A. A process may be listed twice."""
    lists: tuple[Callable[[Any], list[Any]], ...] = (
        pynvml.nvmlDeviceGetComputeRunningProcesses,
        pynvml.nvmlDeviceGetGraphicsRunningProcesses,
    )
    found: dict[int, int | None] = {}
    for processes in lists:
        try:
            listed = processes(handle)
        except pynvml.NVMLError:
            continue
        for process in listed:
            sizes = [size for size in (found.get(process.pid), process.usedGpuMemory) if size is not None]
            found[process.pid] = max(sizes, default=None)
    return found
