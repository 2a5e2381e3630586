"""One engine, its memory and its disk, in virtual time: what every policy finds and has to live with."""

import heapq
import math
from dataclasses import dataclass
from itertools import count

from placement.replay.links import Links, Trip
from placement.replay.stage import Stage
from placement.replay.tally import Score, Tally
from placement.replay.trace import Ask, Trace
from placement.state import Item
from placement.tiers import Tier


@dataclass(slots=True)
class Seat:
    """An adapter in VRAM: leases now, uses so far, last one; `closing` is the op that drains it."""

    used_s: float
    leases: int = 0
    hits: int = 0
    closing: str = ""


class Desk:
    """Plays a trace. A policy is a subclass: it is told of misses, of ended leases and of what arrived.

    An ask of what has a seat takes a lease for its `busy_s` at once; any other is exposed until `serve`.
    """

    def __init__(self, trace: Trace, stage: Stage) -> None:
        self.stage = stage
        self.cargo = trace.header.items
        self.item_of = {cargo.role: item for item, cargo in self.cargo.items()}
        self.asks = trace.asks
        self.now_s = trace.asks[0].t - 1.0
        self.links = Links(trace.header)
        self.tally = Tally()
        self.seats: dict[Item, Seat] = {}
        #: what is in RAM and can be read, with its bytes
        self.ram: dict[Item, int] = {}
        self.pulse_s = math.inf
        self._ends: list[tuple[float, int, Item]] = []
        self._order = count()

    def play(self, policy: str) -> Score:
        """Play all asks, then wait for those that still wait."""
        for ask in self.asks:
            if self._next_s() <= ask.t:
                self._until(ask.t)
            self.now_s = ask.t
            self.ask(ask, self.item_of[ask.role])
        while self.waits():
            self._until(self._next_s())
        return self.tally.score(policy, self.stage.slots, self.links.moved)

    def ask(self, ask: Ask, item: Item) -> None:
        """Serve an ask, or count from where its item must come and tell of the miss."""
        seat = self.seats.get(item)
        if seat is not None and not seat.closing:
            self.tally.found[Tier.VRAM] += 1
            self._hold(item, seat, ask.busy_s)
            return
        self.tally.found[Tier.RAM if item in self.ram else Tier.SSD] += 1
        self.missed(ask, item)

    def serve(self, ask: Ask, item: Item) -> None:
        """An ask that waited takes its lease: its item has a seat."""
        self.tally.waits.append(self.now_s - ask.t)
        self._hold(item, self.seats[item], ask.busy_s)

    def waits(self) -> bool:
        """Tell whether an ask still waits."""
        raise NotImplementedError

    def missed(self, ask: Ask, item: Item) -> None:
        """An ask found no seat."""
        raise NotImplementedError

    def freed(self, item: Item, seat: Seat) -> None:
        """The last lease of a seat ended."""
        raise NotImplementedError

    def arrived(self, trip: Trip) -> None:
        """A copy is complete."""
        raise NotImplementedError

    def pulse(self) -> None:
        """`pulse_s` has come."""
        raise NotImplementedError

    def _hold(self, item: Item, seat: Seat, busy_s: float) -> None:
        seat.leases += 1
        seat.hits += 1
        seat.used_s = self.now_s
        heapq.heappush(self._ends, (self.now_s + busy_s, next(self._order), item))

    def _next_s(self) -> float:
        ends_s = self._ends[0][0] if self._ends else math.inf
        return min(ends_s, self.links.next_s, self.pulse_s)

    def _until(self, t: float) -> None:
        """Let everything happen that is due by `t`: leases end before copies do, and both before a pulse."""
        while (due_s := self._next_s()) <= t:
            self.now_s = due_s
            if self._ends and self._ends[0][0] <= due_s:
                item = heapq.heappop(self._ends)[2]
                seat = self.seats[item]
                seat.leases -= 1
                seat.used_s = due_s
                if not seat.leases:
                    self.freed(item, seat)
            elif self.links.next_s <= due_s:
                trip = self.links.step()
                if trip is not None:
                    self.arrived(trip)
            else:
                self.pulse()
