"""What the brain learned of its lab, written to the journal now and then, and read back at its start."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from placement.habits import Habits, said, told

if TYPE_CHECKING:
    from actors.journal import Journal
    from placement.machine import Machine

FACT = "habits"
#: a crash loses what was learned in this time
KEEP_S = 60.0


class Recollection:
    """Writes the habits of a lab down once in `KEEP_S`, if they changed."""

    def __init__(self) -> None:
        self._due_s = 0.0
        self._kept = Habits()

    def keep(self, machine: Machine, journal: Journal, now_s: float) -> None:
        """Write down who speaks after whom, if it is time to."""
        habits = machine.state.habits
        if now_s < self._due_s or habits is self._kept:
            return
        self._due_s, self._kept = now_s + KEEP_S, habits
        journal.set_fact(FACT, json.dumps(told(habits)))


def recollect(machine: Machine, journal: Journal) -> None:
    """Give a new Machine the habits that an earlier one has learned."""
    written = journal.fact(FACT)
    if written is not None:
        machine.remember(said(json.loads(written)))
