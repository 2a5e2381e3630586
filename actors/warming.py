"""What `lab.warm` answers: how soon, whom it evicts, and a way to take it back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from placement.units import format_seconds

if TYPE_CHECKING:
    from actors.listing import Thing


@dataclass(frozen=True, slots=True)
class Warming:
    """An order to warm that stands; `thing` is the item's row when it was given.

    `eta_s` is in how many seconds the item is likely to be ready where it serves: 0 if it is, None if nobody
    can tell, because the names that it `waits_for` are in use or its bytes are being fetched for the first
    time. `evicts` are the names that leave for it.
    """

    thing: Thing
    eta_s: float | None
    evicts: tuple[str, ...] = ()
    waits_for: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.eta_s == 0:
            return f"{self.thing.name} is warm"
        ready = f"ready in about {format_seconds(self.eta_s)}" if self.eta_s is not None else "time unknown"
        evicts = f", in place of {', '.join(self.evicts)}" if self.evicts else ""
        waits = f", once one of {', '.join(self.waits_for)} is not in use" if self.waits_for else ""
        return f"{self.thing.name}: {ready}{evicts}{waits}"
