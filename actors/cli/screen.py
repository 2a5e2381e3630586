"""What a person sees: data on stdout, progress on stderr; colours on a terminal only, not under NO_COLOR."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from placement.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import RenderableType

    from actors.progress import Progress

#: Columns of what is not a terminal: a pipe or a job's log, which must not cut a table.
PIPE_COLUMNS = 240
#: Narrower than this, a table would lose columns; a terminal that is narrower wraps its lines.
TABLE_COLUMNS = 118
_HIDDEN = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"
}


class Screen:
    """The two streams of one command. Text is shown as it is: no markup, no control characters."""

    def __init__(self) -> None:
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    def tell(self, text: str, style: str = "") -> None:
        """Write a line of progress to stderr."""
        self.err.print(Text(plain(text), style=style), soft_wrap=True)

    def write(self, text: str, style: str = "", *, end: str = "\n") -> None:
        """Write data to stdout, at once; without a style, character for character."""
        if style:
            self.out.print(Text(plain(text), style=style), soft_wrap=True, end=end)
        else:
            self.out.file.write(plain(text) + end)
        self.out.file.flush()

    def show(self, *parts: RenderableType) -> None:
        """Write tables to stdout."""
        self.out.print(*parts, sep="\n")

    def json(self, schema: str, **fields: object) -> None:
        """Write one JSON object to stdout, its `schema` first; dataclasses become objects."""
        self.out.file.write(
            json.dumps({"schema": f"tierce.{schema}/v1", **fields}, default=_fields, indent=2) + "\n"
        )
        self.out.file.flush()

    def step(self, progress: Progress) -> None:
        """Write one step to stderr: what, its bytes, seconds and rate, and what went wrong."""
        if progress.problem:
            self.tell(f"  ✗ {progress.what}: {progress.problem}", "red")
            return
        amount = format_bytes(progress.nbytes) if progress.nbytes else ""
        took = format_seconds(progress.took_s) if progress.took_s else ""
        pace = rate(progress.nbytes, progress.took_s)
        cost = (f"{amount:>9} {took:>7} {pace:>12}  ", "cyan")
        mark = ("  … ", "dim") if progress.going_on else ("  ✓ ", "green")
        self.err.print(Text.assemble(mark, cost, plain(progress.what)), soft_wrap=True)


def rate(nbytes: int, seconds: float) -> str:
    """Return "412.0 MB/s" (10**6 bytes) or "7.2 kB/s", or "" where nothing moved or no time passed."""
    if not nbytes or not seconds:
        return ""
    pace = nbytes / seconds
    return f"{pace / 1e6:.1f} MB/s" if pace >= 1e5 else f"{pace / 1e3:.1f} kB/s"


def plain(text: str) -> str:
    """Return `text` without control characters: what a model wrote must not steer the terminal."""
    return text.translate(_HIDDEN)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    columns = shutil.get_terminal_size().columns if stream.isatty() else PIPE_COLUMNS
    return Console(
        stderr=stderr, width=max(columns, TABLE_COLUMNS), markup=False, highlight=False, emoji=False
    )


def _fields(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
