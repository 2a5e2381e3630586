"""The lab's own Machine at the desk: it hears what it would hear live, and its commands are done in order."""

import math
from collections import deque
from collections.abc import Mapping

from placement.machine import Machine
from placement.messages import (
    Beat,
    Command,
    Copied,
    Copy,
    Drop,
    Dropped,
    DropRefused,
    Event,
    Grant,
    NodeJoined,
    Refuse,
    Registered,
    Seen,
    Tick,
    Wanted,
    WarmOrdered,
)
from placement.replay.desk import Desk, Seat
from placement.replay.links import Trip
from placement.replay.stage import Stage
from placement.replay.trace import Ask, Trace
from placement.state import Item, Place
from placement.tiers import Tier

BEAT_S = 1.0


class Brain(Desk):
    """Plays a trace with a Machine. It learns of warm uses and leases by the beat, once a second.

    As in the lab, the engine is asked who uses its seats when a want finds none free, and while one waits;
    and a want that is still open when its patience ends has the Machine look once more. With `hints`, an ask
    that says who speaks next warms that one. Calls take no time.
    """

    def __init__(self, trace: Trace, stage: Stage, machine: Machine, *, hints: bool = True) -> None:
        super().__init__(trace, stage)
        self.machine = machine
        self._hints = hints
        self._wants: dict[str, Ask] = {}
        self._asked = 0
        self._inbox: deque[Event] = deque()
        self._told = False
        self._on_disk: Mapping[Item, Seen] = {
            item: Seen(nbytes=cargo.nbytes) for item, cargo in self.cargo.items()
        }
        self._beat_s = 0.0
        #: when the Machine is asked to look again at a want that is still open
        self._looks: deque[tuple[float, str]] = deque()
        self._places = {place.tier: place for place in stage.rooms}
        self._join()

    def _join(self) -> None:
        """Start the lab: its node, all items registered with their files on its disk, and a first beat."""
        ssd = self._places[Tier.SSD]
        self.tell(NodeJoined(ssd.node, self.stage.rooms))
        for spec in self.stage.specs:
            self.tell(Registered(spec, (ssd,)))
        self.now_s = self._beat_s = self.now_s + 1e-3
        self.pulse()

    def waits(self) -> bool:
        return bool(self._wants)

    def ask(self, ask: Ask, item: Item) -> None:
        super().ask(ask, item)
        if ask.after is not None and self._hints:
            self.tell(WarmOrdered(self.item_of[ask.after], f"speaks after {ask.role}"))

    def missed(self, ask: Ask, item: Item) -> None:
        self._asked += 1
        want = f"w{self._asked}"
        if len(self.seats) >= self.stage.slots:
            self._listen()
        self._wants[want] = ask
        self.tell(Wanted(want, item, ask.t + self.stage.patience_s))
        if want in self._wants:
            self._looks.append((ask.t + self.machine.limits.drain_after_s, want))
            self.pulse_s = min(self.pulse_s, self._looks[0][0])

    def freed(self, item: Item, seat: Seat) -> None:
        if seat.closing:
            self._leave(item, seat.closing)
        elif self._wants:
            self._listen()

    def arrived(self, trip: Trip) -> None:
        if trip.target is Tier.VRAM:
            self.seats[trip.item] = Seat(self.now_s)
        else:
            self.ram[trip.item] = trip.nbytes
        self.tell(Copied(trip.op, trip.nbytes, self.now_s - trip.began_s))

    def pulse(self) -> None:
        """Tell the Machine what is where and in use, and that time has passed; or that a want still waits."""
        if self.now_s >= self._beat_s:
            self._beat()
            self._beat_s += BEAT_S
        while self._looks and (self._looks[0][0] <= self.now_s or self._looks[0][1] not in self._wants):
            _, want = self._looks.popleft()
            if want in self._wants:
                self.tell(Tick())
        self.pulse_s = min(self._beat_s, self._looks[0][0] if self._looks else math.inf)

    def _beat(self) -> None:
        places = self._places
        kept = {item: self._on_disk[item] for item in self.ram}
        held = {places[Tier.VRAM]: self._seated(), places[Tier.RAM]: kept, places[Tier.SSD]: self._on_disk}
        self.tell(Beat(places[Tier.SSD].node, self.now_s, held))
        self.tell(Tick())

    def _listen(self) -> None:
        """Tell the Machine who uses the seats."""
        vram = self._places[Tier.VRAM]
        self.tell(Beat(vram.node, self.now_s, {vram: self._seated()}))

    def _seated(self) -> dict[Item, Seen]:
        return {
            item: Seen(seat.leases, 0.0 if seat.leases else self.now_s - seat.used_s, seat.hits)
            for item, seat in self.seats.items()
        }

    def tell(self, event: Event) -> None:
        """Give the Machine an event, and do what it says; answers that come at once are told in turn."""
        self._inbox.append(event)
        if self._told:
            return
        self._told = True
        while self._inbox:
            for command in self.machine.handle(self._inbox.popleft(), self.now_s):
                self._perform(command)
        self._told = False

    def _perform(self, command: Command) -> None:
        match command:
            case Copy(op, item, source, target, nbytes):
                self.links.send(item, nbytes, source.tier, target.tier, self.now_s, op)
            case Drop(op, item, place, _, drains):
                self._drop(op, item, place, drains=drains)
            case Grant(want, item):
                self.serve(self._wants.pop(want), item)
            case Refuse(want):
                self.tally.refused += 1
                self.tally.waits.append(self.now_s - self._wants.pop(want).t)

    def _drop(self, op: str, item: Item, place: Place, *, drains: bool) -> None:
        if place.tier is Tier.RAM:
            del self.ram[item]
            self.tally.evicted[Tier.RAM] += 1
            self.tell(Dropped(op))
        elif not (leases := self.seats[item].leases):
            self._leave(item, op)
        elif drains:
            self.seats[item].closing = op
        else:
            self.tell(DropRefused(op, leases))

    def _leave(self, item: Item, op: str) -> None:
        del self.seats[item]
        self.tally.evicted[Tier.VRAM] += 1
        self.tell(Dropped(op))
