"""Durable copies that are built again from their sources: what failed is tried again, and in no hurry."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from placement.units import format_seconds

if TYPE_CHECKING:
    from placement.place import Item


@dataclass(frozen=True, slots=True)
class Attempt:
    """The last try for an item: how many failed in a row, until when nobody tries again, and why."""

    failures: int
    until_s: float
    why: str = ""


@dataclass(slots=True)
class Mending:
    """Who may be tried. The pause after a failure doubles from the first to the second number of seconds.

    What fails for a new reason is told anew, the same reason only once.
    """

    pause_s: float = 1.0
    most_s: float = 60.0
    _tried: dict[Item, Attempt] = field(default_factory=dict)

    def begin(self, item: Item, now_s: float) -> bool:
        """Tell whether an item may be tried now; if so, nobody else tries it until this one has ended."""
        last = self._tried.get(item, Attempt(0, -math.inf))
        if now_s < last.until_s:
            return False
        if now_s >= last.until_s + 2 * self.most_s:  # long ago: it was well in between
            last = Attempt(0, -math.inf)
        self._tried[item] = Attempt(last.failures, math.inf, last.why)
        return True

    def end(self, item: Item, now_s: float, why: str) -> str:
        """Note how a try ended, and `why` not well ("" if well); return what the story has to say of it."""
        last = self._tried[item]
        if not why:
            del self._tried[item]
            return ""
        pause_s = min(self.pause_s * 2.0**last.failures, self.most_s)
        self._tried[item] = Attempt(min(last.failures + 1, 32), now_s + pause_s, why)
        if why == last.why:
            return ""
        most = format_seconds(self.most_s)
        again = f"tried again in {format_seconds(pause_s)}, later each time up to {most}"
        return f"its file is gone and cannot be built again: {why}; {again}"
