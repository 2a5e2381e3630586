"""How long copies take: over one hop one after the other, each its latency and its bytes' time."""

import heapq
import math
from dataclasses import dataclass
from itertools import count

from placement.replay.trace import BUS, DISK, Header
from placement.state import Item
from placement.tiers import Tier

_LEGS = {
    (Tier.SSD, Tier.RAM): (DISK,),
    (Tier.RAM, Tier.VRAM): (BUS,),
    (Tier.SSD, Tier.VRAM): (DISK, BUS),
}


@dataclass(slots=True)
class Trip:
    """Bytes under way since `began_s` over the hops that are left; `op` is the command's, if one asked."""

    item: Item
    target: Tier
    nbytes: int
    began_s: float
    legs: tuple[str, ...]
    op: str = ""


class Links:
    """The hops of one node. `moved` counts the bytes that went over each."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._free_s = dict.fromkeys(header.speeds, -math.inf)
        self._due: list[tuple[float, int, Trip]] = []
        self._order = count()
        self.moved = dict.fromkeys(header.speeds, 0)

    @property
    def next_s(self) -> float:
        """Return when the next leg of a trip ends; inf if nothing moves."""
        return self._due[0][0] if self._due else math.inf

    def seconds(self, nbytes: int, source: Tier, target: Tier) -> float:
        """Return how long a copy takes while nothing else moves."""
        head = self._header
        return sum(head.latencies[hop] + nbytes / head.speeds[hop] for hop in _LEGS[source, target])

    def send(self, item: Item, nbytes: int, source: Tier, target: Tier, now_s: float, op: str = "") -> None:
        self._board(Trip(item, target, nbytes, now_s, _LEGS[source, target], op), now_s)

    def step(self) -> Trip | None:
        """Let the next leg end, at `next_s`; return the trip if it was its last."""
        now_s, _, trip = heapq.heappop(self._due)
        if not trip.legs:
            return trip
        self._board(trip, now_s)
        return None

    def _board(self, trip: Trip, now_s: float) -> None:
        hop, *legs = trip.legs
        trip.legs = tuple(legs)
        head = self._header
        begins_s = max(now_s, self._free_s[hop])
        self._free_s[hop] = ends_s = begins_s + head.latencies[hop] + trip.nbytes / head.speeds[hop]
        self.moved[hop] += trip.nbytes
        heapq.heappush(self._due, (ends_s, next(self._order), trip))
