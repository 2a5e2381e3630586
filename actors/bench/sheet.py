"""What a bench found: lines with their spread, each beside its goal, as a table or as JSON."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from actors.bench.spread import Spread

if TYPE_CHECKING:
    from actors.cli.screen import Screen

COLUMNS = ("WHAT", "MEDIAN", "MIN TO MAX", "N", "GOAL", "MET", "NOTE")


@dataclass(frozen=True, slots=True)
class Goal:
    """A limit for a median: at most it, or at least it."""

    limit: float
    least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.limit if self.least else value <= self.limit


@dataclass(frozen=True, slots=True)
class Line:
    """One finding. `unit` "ms" shows seconds as milliseconds, "x" a ratio, "" a count, else it is shown."""

    what: str
    value: Spread | str
    unit: str = ""
    goal: Goal | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Tell whether the goal is met; None if there is none to meet."""
        return None if self.goal is None or isinstance(self.value, str) else self.goal.met(self.value.median)


@dataclass(slots=True)
class Sheet:
    """A titled list of lines, in the order in which they were found."""

    title: str
    lines: list[Line] = field(default_factory=list)

    def add(
        self, what: str, value: Spread | str, unit: str = "", *, goal: Goal | None = None, note: str = ""
    ) -> None:
        self.lines.append(Line(what, value, unit, goal, note))

    def count(self, what: str, number: float, *, goal: Goal | None = None, note: str = "") -> None:
        """Add what is counted once and has no spread."""
        self.add(what, Spread(number, number, number, 1), goal=goal, note=note)


def at_most(limit: float) -> Goal:
    """Return the goal that a median is not above `limit`."""
    return Goal(limit)


def at_least(limit: float) -> Goal:
    """Return the goal that a median is not below `limit`."""
    return Goal(limit, least=True)


def machine(threads: int) -> str:
    """Return in one line what the figures were measured on."""
    import peft
    import torch
    import transformers

    libraries = ", ".join(f"{m.__name__} {m.__version__}" for m in (torch, transformers, peft))
    device = f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""
    level = torch.backends.cpu.get_cpu_capability()
    return f"{_cpu()} ({level}){device}, torch threads {threads}, {libraries}"


def show(sheet: Sheet, screen: Screen) -> None:
    """Print a sheet as a table under its title."""
    from actors.cli.table import table

    screen.write(f"\n{sheet.title}", "bold")
    screen.show(table(COLUMNS, [_cells(line) for line in sheet.lines]))


def as_json(sheets: list[Sheet]) -> list[dict[str, object]]:
    """Return the sheets as plain values; times are seconds, a line tells whether its goal was met."""
    return [
        {"title": sheet.title, "lines": [asdict(line) | {"met": line.met} for line in sheet.lines]}
        for sheet in sheets
    ]


def _cells(line: Line) -> tuple[str | Text, ...]:
    if isinstance(line.value, str):
        return line.what, line.value, "", "", "", "", line.note
    value, unit, met = line.value, line.unit, line.met
    span = "" if value.count == 1 else f"{_told(value.low, unit)} to {_told(value.high, unit)}"
    goal = "" if line.goal is None else f"{'≥' if line.goal.least else '≤'} {_told(line.goal.limit, unit)}"
    verdict = Text("") if met is None else Text("yes", "green") if met else Text("no", "bold red")
    count = "" if value.count == 1 else str(value.count)
    return line.what, _told(value.median, unit), span, count, goal, verdict, line.note


def _told(value: float, unit: str) -> str:
    match unit:
        case "ms":
            return f"{value * 1e3:.3g} ms" if value < 1 else f"{value * 1e3:.0f} ms"
        case "x":
            return f"{value:.2f}x" if value < 100 else f"{value:.0f}x"
        case "":
            return f"{value:.0f}"
        case _:
            return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor() or platform.machine()
