"""What the replicas of a place come to, kept in step as they come and go, so that nobody has to count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from placement.place import Phase, Place
from placement.tiers import Tier

if TYPE_CHECKING:
    from placement.state import Spec, State


@dataclass(frozen=True, slots=True)
class Tally:
    """The bytes at a place, the copies on their way in, and what is leaving.

    `seats` are those taken in VRAM, by base; elsewhere there are none.
    """

    nbytes: int = 0
    loading: int = 0
    leaving: int = 0
    leaving_nbytes: int = 0
    seats: Mapping[str, int] = field(default_factory=dict)

    def plus(self, nbytes: int, phase: Phase, base: str, count: int) -> Tally:
        """Return the tally with one replica more (`count` 1) or less (-1); `base` is "" without a seat."""
        seats = self.seats
        if base:
            seats = {**seats, base: seats.get(base, 0) + count}
            if not seats[base]:
                del seats[base]
        return Tally(
            self.nbytes + count * nbytes,
            self.loading + count * (phase == "loading"),
            self.leaving + count * (phase == "leaving"),
            self.leaving_nbytes + count * nbytes * (phase == "leaving"),
            seats,
        )


EMPTY = Tally()


def seat_of(spec: Spec, place: Place) -> str:
    """Return the base of which an item takes a seat at a place, or ""."""
    return spec.base if place.tier is Tier.VRAM and spec.kind == "adapter" else ""


def count(state: State, place: Place) -> Tally:
    """Return what the replicas of a place come to, counted anew."""
    tally = EMPTY
    for item, nbytes in state.shelves.get(place, {}).items():
        base = seat_of(state.items[item], place)
        tally = tally.plus(nbytes, state.replicas[item, place].phase, base, 1)
    return tally
