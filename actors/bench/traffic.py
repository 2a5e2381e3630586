"""A pretended lab that keeps a Machine busy: nodes beat, roles are asked, copies take their time."""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from placement.errors import TierceError
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
    MoveOrdered,
    NodeJoined,
    PinSet,
    Refuse,
    Registered,
    Seen,
    Tick,
    UnloadOrdered,
    Wanted,
    WarmOrdered,
)
from placement.state import Item, Limits, Place, Room, Spec
from placement.tiers import Tier

if TYPE_CHECKING:
    import random

MIB = 2**20
IMAGE = 40 * MIB
#: what copies and requests take in the pretended lab
NBYTES_S = {Tier.RAM: 4e9, Tier.SSD: 1e9}
DROP_S = 0.005
#: how much oftener the first role is asked than the n-th: n to this power
SKEW = 1.0


@dataclass(frozen=True, slots=True)
class Size:
    """A lab of `nodes` machines with an engine each, and how much goes on in a second of its time."""

    nodes: int
    items: int
    slots: int
    asks_s: float
    orders_s: float = 0.5
    #: a request takes up to twice this
    request_s: float = 0.5

    def __str__(self) -> str:
        """Return `64 nodes, 4000 items`."""
        return f"{self.nodes} node{'s' if self.nodes > 1 else ''}, {self.items} items"


@dataclass(slots=True)
class Present:
    """One item that is really at a place."""

    used_s: float
    leases: int = 0
    hits: int = 0


@dataclass(slots=True)
class Taken:
    """What events took, in seconds of the thread's CPU time, by kind; `cold_s` is an ask until its Grant."""

    by_kind: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    asks: int = 0
    cold: int = 0

    @property
    def every(self) -> list[float]:
        return [seconds for kind in self.by_kind.values() for seconds in kind]


class Traffic:
    """One lab and its Machine; `run` lets time pass, and `taken` tells what `handle` took meanwhile."""

    def __init__(self, size: Size, dice: random.Random) -> None:
        self.size = size
        self.dice = dice
        self.now_s = 0.0
        self.taken = Taken()
        self.machine = Machine(Limits(), 1)
        self._held: dict[Place, dict[Item, Present]] = {}
        self._coming: list[tuple[float, int, Event | tuple[Item, Place]]] = []
        self._sent = 0
        self._specs = [self._spec(number) for number in range(size.items)]
        self._odds = list(accumulate(1 / (rank + 1) ** SKEW for rank in range(size.items)))

    def raise_lab(self) -> None:
        """Have all nodes join and all items registered, and let what follows from it happen."""
        per_node = -(-self.size.items // self.size.nodes)
        for number in range(self.size.nodes):
            vram, ram, ssd = self._places(number)
            rooms = {
                vram: Room((self.size.slots + 1) * IMAGE, IMAGE, {f"base{number}": self.size.slots}),
                ram: Room(per_node * IMAGE // 2),
                ssd: Room(per_node * IMAGE * 2),
            }
            self._held.update({place: {} for place in rooms})
            self._tell(NodeJoined(f"node{number}", rooms))
            self._beat(number)
        for spec in self._specs:
            self._held[spec.durable][spec.item] = Present(0.0)
            self._tell(Registered(spec, (spec.durable,)))
        self.run(5, asks_s=0.0)

    def run(self, seconds: int, asks_s: float | None = None) -> None:
        """Let seconds pass: in each a Tick, a beat of every node, asks, and now and then an order."""
        asks_s = self.size.asks_s if asks_s is None else asks_s
        self.taken = Taken()
        for _ in range(seconds):
            began_s, spread = self.now_s, 1.0 / self.size.nodes
            due: list[tuple[float, int]] = [
                (began_s + number * spread, number) for number in range(self.size.nodes)
            ]
            due += [(began_s + self.dice.random(), -1) for _ in range(self._count(asks_s))]
            due += [(began_s + self.dice.random(), -2) for _ in range(self._count(self.size.orders_s))]
            self._tell(Tick())
            for at_s, what in sorted(due):
                self._pass_to(at_s)
                if what == -1:
                    self._ask()
                elif what == -2:
                    self._tell(self._order())
                else:
                    self._beat(what)
            self._pass_to(began_s + 1.0)

    def _count(self, a_second: float) -> int:
        return int(a_second) + (self.dice.random() < a_second % 1)

    def _places(self, number: int) -> tuple[Place, Place, Place]:
        name = f"node{number}"
        return Place(name, Tier.VRAM, "cuda:0"), Place(name, Tier.RAM), Place(name, Tier.SSD)

    def _spec(self, number: int) -> Spec:
        """Return an adapter: one in four rests in RAM, one in twenty in VRAM, some follow another's use."""
        vram, ram, ssd = self._places(number % self.size.nodes)
        home = vram if number % 20 == 7 else ram if number % 4 == 0 else ssd
        return Spec(
            Item(f"role{number}@{number:012x}"),
            f"role{number}",
            "adapter",
            IMAGE,
            home,
            (vram,),
            f"base{number % self.size.nodes}",
            "digest",
            ssd,
            idle_s=(20.0, 60.0, 600.0)[number % 3],
            unload_to=ssd if number % 8 == 0 else None,
            pinned=number % 100 == 7,
            after=(f"role{number - self.size.nodes}",) if number % 25 == 24 else (),
        )

    def _tell(self, event: Event) -> None:
        """Give the Machine an event and take its commands; an order that cannot be met costs time too."""
        commands: list[Command] = []
        began_s = time.thread_time()
        try:
            commands = self.machine.handle(event, self.now_s)
        except TierceError:
            if not isinstance(event, MoveOrdered | PinSet):
                raise
        self.taken.by_kind[type(event).__name__].append(time.thread_time() - began_s)
        for command in commands:
            self._do(command)

    def _later(self, seconds: float, what: Event | tuple[Item, Place]) -> None:
        self._sent += 1
        heapq.heappush(self._coming, (self.now_s + seconds, self._sent, what))

    def _pass_to(self, until_s: float) -> None:
        while self._coming and self._coming[0][0] <= until_s:
            self.now_s, _, what = heapq.heappop(self._coming)
            if isinstance(what, tuple):
                item, place = what
                present = self._held[place][item]
                present.leases, present.used_s = present.leases - 1, self.now_s
            else:
                self._tell(what)
        self.now_s = until_s

    def _do(self, command: Command) -> None:
        match command:
            case Copy(op, item, source, target, nbytes):
                took_s = nbytes / NBYTES_S[source.tier]
                self._held[target][item] = Present(self.now_s + took_s)
                self._later(took_s, Copied(op, nbytes, took_s))
            case Drop(op, item, place):
                present = self._held[place][item]
                if present.leases:
                    self._later(DROP_S, DropRefused(op, present.leases))
                else:
                    del self._held[place][item]
                    self._later(DROP_S, Dropped(op))
            case Grant(_, item, place):
                self._lease(item, place)
            case Refuse():
                pass

    def _lease(self, item: Item, place: Place) -> None:
        present = self._held[place][item]
        present.leases, present.hits, present.used_s = present.leases + 1, present.hits + 1, self.now_s
        self._later(self.size.request_s * 2 * self.dice.random(), (item, place))

    def _ask(self) -> None:
        """Ask some role: warm without a word to the Machine, else by a want."""
        (spec,) = self.dice.choices(self._specs, cum_weights=self._odds)
        (place,) = spec.serves_at
        self.taken.asks += 1
        if self.machine.state.ready(spec.item, place):
            self._lease(spec.item, place)
            return
        self.taken.cold += 1
        self._tell(Wanted(f"w{self.taken.asks}-{self.now_s}", spec.item, self.now_s + 30.0))

    def _order(self) -> Event:
        spec = self.dice.choice(self._specs)
        place = self.dice.choice(self._places(int(spec.base.removeprefix("base"))))
        orders = (
            MoveOrdered(spec.item, place, "user"),
            PinSet(spec.item, self.dice.random() < 0.1, "user"),
            WarmOrdered(spec.item, "user"),
            UnloadOrdered(spec.item, "user"),
        )
        return self.dice.choice(orders)

    def _beat(self, number: int) -> None:
        """Tell what a node holds; what is on its way in is not there yet."""
        coming = {
            (running.command.item, running.command.target)
            for running in self.machine.state.ops.values()
            if isinstance(running.command, Copy)
        }
        places = {
            place: {
                item: Seen(present.leases, max(0.0, self.now_s - present.used_s), present.hits, IMAGE)
                for item, present in self._held[place].items()
                if (item, place) not in coming
            }
            for place in self._places(number)
        }
        self._tell(Beat(f"node{number}", self.now_s, places))
