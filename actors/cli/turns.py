"""A round table as a person sees it: each turn as it is spoken, then a table of what the turns cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from actors.answer import End, Found, Piece
from actors.cli.table import table
from actors.cli.talk import cost_line, show_sources
from placement.units import format_seconds

if TYPE_CHECKING:
    from rich.table import Table

    from actors.answer import Event
    from actors.cli.screen import Screen
    from actors.roundtable import Turn

COLUMNS = ("TURN", "ROLE", "ADAPTER FROM", "WAITED", "TOOK", "SOURCES")


class Board:
    """Shows turns while they are spoken: who and what on stdout, its sources below it, its cost on stderr."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._found: Found | None = None

    def hear(self, role: str, event: Event) -> None:
        """Show what comes next of the turn of `role`."""
        match event:
            case Found():
                self.close()
                self._found = event
                self._screen.write(role, "bold")
            case Piece(text):
                self._screen.write(text, end="")
            case End():
                self.close()
                self._screen.tell(cost_line(event), "dim")

    def close(self) -> None:
        """End the text of a turn that has begun, and show its sources."""
        if self._found is not None:
            self._screen.write("")
            show_sources(self._found, self._screen)
        self._found = None


def turns_table(turns: Sequence[Turn]) -> Table:
    """Return a row for each turn: where its adapter came from, what was waited for it, how much it cites."""
    rows: list[tuple[str | Text, ...]] = [
        (
            str(number),
            Text(turn.role, "bold red" if turn.problem else "bold"),
            "failed" if turn.problem else turn.tier,
            format_seconds(turn.exposed_s),
            format_seconds(turn.total_s),
            str(len(turn.sources)),
        )
        for number, turn in enumerate(turns, 1)
    ]
    return table(COLUMNS, rows)
