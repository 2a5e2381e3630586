"""What bringing an adapter up costs: the lab's own record, and PEFT's `load_adapter` beside it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.bench.peft_load import PeftLoads
from placement.errors import WorldError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actors.client import Lab
    from actors.journal import Activated

PEFT_S = 300.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Activations of one adapter from one tier: its bytes, their seconds, the median part that copied."""

    role: str
    source: str
    times: int
    nbytes: int
    median_s: float
    min_s: float
    max_s: float
    copy_s: float


def repeat(lab: Lab, role: str, times: int) -> None:
    """Bring a role's adapter up and send it back to its home, `times` times. Its home is then what it was."""
    home = lab.ps().thing(role).home.partition(":")[2].partition("(")[0]
    for _ in range(times):
        lab.move(role, "VRAM")
        lab.move(role, home)


def costs(activations: Iterable[Activated]) -> list[Cost]:
    """Sum up activations by adapter and by the tier that the bytes came from, as they first came."""
    groups: dict[tuple[str, str], list[Activated]] = {}
    for activation in activations:
        groups.setdefault((activation.item.partition("@")[0], activation.source), []).append(activation)
    return [
        Cost(
            role=role,
            source=source,
            times=len(group),
            nbytes=group[-1].nbytes,
            median_s=statistics.median(each.total_s for each in group),
            min_s=min(each.total_s for each in group),
            max_s=max(each.total_s for each in group),
            copy_s=statistics.median(each.copy_s for each in group),
        )
        for (role, source), group in groups.items()
    ]


def peft(base: str, adapter: str, times: int) -> PeftLoads:
    """Measure PEFT in a process of its own. Raises WorldError TRC070 with what it said if it fails."""
    command = [sys.executable, "-m", "actors.bench.peft_load", base, adapter, "--times", str(times)]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=PEFT_S,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise WorldError("TRC070", f"PEFT could not load {adapter}: {last}")
    return PeftLoads(**json.loads(done.stdout))
