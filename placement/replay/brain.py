"""The lab's own Machine at the desk: it hears what it would hear live, and its commands are done in order."""

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
from placement.replay.trace import Ask, Trace
from placement.state import Item, Place, Room, Spec
from placement.tiers import Tier

NODE, BASE = "desk", "base"
VRAM, RAM, SSD = Place(NODE, Tier.VRAM, "cuda:0"), Place(NODE, Tier.RAM), Place(NODE, Tier.SSD)
BEAT_S = 1.0


class Brain(Desk):
    """Plays a trace with a Machine. It learns of warm uses and leases by the beat, once a second.

    With `hints`, an ask that says who speaks next warms that one. A want ends at its deadline, `patience_s`.
    """

    def __init__(
        self, trace: Trace, slots: int, machine: Machine, *, hints: bool = True, patience_s: float = 30.0
    ) -> None:
        super().__init__(trace, slots)
        self.machine = machine
        self._hints = hints
        self._patience_s = patience_s
        self._wants: dict[str, Ask] = {}
        self._asked = 0
        self._inbox: deque[Event] = deque()
        self._told = False
        self._on_disk: Mapping[Item, Seen] = {
            item: Seen(nbytes=cargo.nbytes) for item, cargo in self.cargo.items()
        }
        self._join(trace.header.ram)

    def _join(self, ram: int) -> None:
        """Start the lab: one node, all items registered with their files on its disk, and a first beat."""
        largest = max(cargo.nbytes for cargo in self.cargo.values())
        total = sum(cargo.nbytes for cargo in self.cargo.values())
        items = self.slots * largest
        # as on a GPU, most of the memory is base weights and KV cache, and seats are what is short
        rooms = {VRAM: Room(4 * items, 2 * items, {BASE: self.slots}), RAM: Room(ram), SSD: Room(2 * total)}
        self.tell(NodeJoined(NODE, rooms))
        for item, cargo in self.cargo.items():
            spec = Spec(item, cargo.role, "adapter", cargo.nbytes, SSD, VRAM, BASE, str(item), SSD, 600.0)
            self.tell(Registered(spec, (SSD,)))
        self.now_s += 1e-3
        self.pulse_s = self.now_s
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
        self._wants[want] = ask
        self.tell(Wanted(want, item, ask.t + self._patience_s))

    def freed(self, item: Item, seat: Seat) -> None:
        if seat.closing:
            self._leave(item, seat.closing)

    def arrived(self, trip: Trip) -> None:
        if trip.target is Tier.VRAM:
            self.seats[trip.item] = Seat(self.now_s)
        else:
            self.ram[trip.item] = trip.nbytes
        self.tell(Copied(trip.op, trip.nbytes, self.now_s - trip.began_s))

    def pulse(self) -> None:
        """Tell the Machine what is where and in use, and that time has passed."""
        now_s = self.now_s
        seated = {
            item: Seen(seat.leases, 0.0 if seat.leases else now_s - seat.used_s, seat.hits)
            for item, seat in self.seats.items()
        }
        kept = {item: self._on_disk[item] for item in self.ram}
        self.tell(Beat(NODE, now_s, {VRAM: seated, RAM: kept, SSD: self._on_disk}))
        self.tell(Tick())
        self.pulse_s += BEAT_S

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
        if place == RAM:
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
