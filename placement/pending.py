"""What is under way: requests that wait, commands that run, orders that are not done, and what failed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from placement.place import Item, Place

if TYPE_CHECKING:
    from placement.messages import Copy, Drop


@dataclass(frozen=True, slots=True)
class Want:
    """A request that needs `item` ready where it serves; `cause` says whose."""

    want: str
    item: Item
    deadline_s: float
    since_s: float
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Op:
    """A command in flight; past its deadline its outcome is unknown until the next beat."""

    command: Copy | Drop
    began_s: float
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Setback:
    """Why the last try at an item and place failed, and until when nobody tries again (inf: permanent)."""

    failures: int
    until_s: float
    code: str
    reason: str

    def __str__(self) -> str:
        """Return `reason [CODE]`."""
        return f"{self.reason} [{self.code}]"

    @property
    def permanent(self) -> bool:
        """Tell whether only a new registration or a new order lifts it."""
        return self.until_s == math.inf


@dataclass(frozen=True, slots=True)
class Move:
    """An ordered move that is not done yet; `before` is the override that comes back if it fails.

    A move of an adapter to another node has a `landing`: the SSD place there, which comes first and is its
    durable place (or its landing, if its bytes lie at an address) once the move is done.
    """

    to: Place
    before: Place | None
    cause: str
    deadline_s: float
    landing: Place | None = None
