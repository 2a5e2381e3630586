"""What was measured on this machine before, so that an engine that starts again runs the same kernels.

Near a tie the noise of one start would choose, and another kernel is other bits in the answers. So the times
are kept, and the choice, which follows from them, stays.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from actors.lm.disk import disk, write
from placement.errors import WorldError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Raised when what is timed, or how, changes.
EDITION = 1
CPUINFO = Path("/proc/cpuinfo")
#: What tells one CPU from another, on x86 and on ARM.
CPU_FIELDS = (
    "vendor_id", "cpu family", "model", "model name", "stepping",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part",
)  # fmt: skip
WAYS = ("mm", "bmm")

#: Seconds by "out x in" of a Linear, name of the kernel and rows.
Times: TypeAlias = "dict[str, dict[str, dict[int, float]]]"


@dataclass(frozen=True, slots=True)
class Measured:
    """The times of the base's kernels, and by rows of distinct slots the faster way, "mm" or "bmm"."""

    times_s: Times = field(default_factory=dict)
    ways: dict[int, str] = field(default_factory=dict)

    def covers(self, other: Measured) -> bool:
        """Tell whether all of `other` is in this one."""
        return self.ways == other.ways and all(
            self.times_s.get(shape, {}).get(name) == times
            for shape, by_name in other.times_s.items()
            for name, times in by_name.items()
        )


def conditions(net: nn.Module, dtype: torch.dtype, device: torch.device, **asked: object) -> dict[str, Any]:
    """Return all that times hold for: the Linears of the untouched `net`, this machine, what is `asked`.

    Threads are those that torch has now. All of it can be JSON.
    """
    linears = [module for module in net.modules() if isinstance(module, nn.Linear)]
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "edition": EDITION,
        "linears": dict(Counter(f"{each.out_features} x {each.in_features}" for each in linears)),
        "stored": sorted({str(each.weight.dtype) for each in linears}),
        "computed": str(dtype),
        "device": gpu or device.type,
        "cpu": processor(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        **{name: str(value) for name, value in asked.items()},
    }


def processor() -> str:
    """Return what tells this CPU, as torch sees it, from others."""
    told = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    if CPUINFO.exists():
        first = CPUINFO.read_text("utf-8").partition("\n\n")[0]
        fields = (line.partition(":") for line in first.splitlines())
        told += [value.strip() for name, _, value in fields if name.strip() in CPU_FIELDS]
    return ", ".join(told)


def recall(folder: Path | None, under: Mapping[str, Any]) -> Measured:
    """Return what was measured under these conditions; nothing if no whole file in `folder` tells it."""
    if folder is None:
        return Measured()
    try:
        told = json.loads(_file(folder, under).read_text("utf-8"))
        known = Measured(_times(told["times_s"]), {int(rows): way for rows, way in told["ways"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # it is measured anew and replaced
        return Measured()
    return known if told["conditions"] == under and set(known.ways.values()) <= {*WAYS} else Measured()


def settle(folder: Path | None, under: Mapping[str, Any], known: Measured, now: Measured) -> str:
    """Keep what was measured `now` unless it was `known`; return "remembered", or "measured" and what fails.

    A folder that cannot be written to stops nobody: the next start measures again.
    """
    if known.covers(now):
        return "remembered"
    if folder is None:
        return "measured"
    text = json.dumps({"conditions": under, "times_s": now.times_s, "ways": now.ways}, indent=1)
    target = _file(folder, under)
    try:
        with disk(f"keep in {target} what was measured"):
            folder.mkdir(parents=True, exist_ok=True)
            own = target.with_name(f"{target.stem}-{os.getpid()}.json")  # two engines may start at once
            write(own, text.encode())
            own.replace(target)
    except WorldError as error:
        return f"measured; {error.message}"
    return "measured"


def _file(folder: Path, under: Mapping[str, Any]) -> Path:
    text = json.dumps(under, sort_keys=True)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def _times(told: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Times:
    times_s = {
        shape: {
            name: {int(rows): float(took_s) for rows, took_s in times.items()}
            for name, times in by_name.items()
        }
        for shape, by_name in told.items()
    }
    flat = [took_s for by_name in times_s.values() for times in by_name.values() for took_s in times.values()]
    if not all(took_s > 0 and math.isfinite(took_s) for took_s in flat):
        raise ValueError("times that no clock tells")
    return times_s
