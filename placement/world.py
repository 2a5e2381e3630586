"""A pretended lab with its own truth: its stores really hold or lack items and count their own bytes."""

import heapq
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from placement.messages import (
    Beat,
    Command,
    Copied,
    Copy,
    CopyFailed,
    Drop,
    Dropped,
    DropRefused,
    Event,
    Grant,
    Refuse,
    Seen,
)
from placement.pretended import FakeNode, FakeStore, Held, Work
from placement.state import NETWORK, Gauge, Item, Place, Room, Spec
from placement.tiers import Tier


class Dice(Protocol):
    """What the world needs of `random.Random`, so that the seed is the caller's."""

    def random(self) -> float: ...

    def randrange(self, stop: int, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Faults:
    """How often what goes wrong: each is a probability per message, per command or per step."""

    loss: float = 0.0
    twice: float = 0.0
    delay_s: float = 0.05
    copy_fails: float = 0.0
    node_dies: float = 0.0
    cut_off: float = 0.0
    file_vanishes: float = 0.0


CALM = Faults()
#: how long an item that is drained is waited for, and how often it is looked at
DRAIN_S = 4.0
POLL_S = 0.1
STORM = Faults(
    loss=0.04, twice=0.1, delay_s=1.5, copy_fails=0.1, node_dies=0.03, cut_off=0.02, file_vanishes=0.01
)


class World:
    """Performs commands late, twice or never, and answers with events. `violations` is what must stay empty.

    `misses` are commands that found the world other than the brain believed: after a fault they are
    legitimate, in a calm world they are not.
    """

    def __init__(self, rooms: Mapping[str, Mapping[Place, Room]], dice: Dice, faults: Faults) -> None:
        self.dice = dice
        self.faults = faults
        self.now_s = 0.0
        self.nodes = {
            name: FakeNode(name, {place: FakeStore(room) for place, room in offered.items()})
            for name, offered in rooms.items()
        }
        #: all that lies at addresses, which no fault touches
        self.network = FakeStore(None)
        #: of the places whose memory is measured: how much there is, and what others take of it
        self.memory: dict[Place, int] = {}
        self.others: dict[Place, int] = {}
        self.specs: dict[Item, Spec] = {}
        #: items of which a fault destroyed a file
        self.damaged: set[Item] = set()
        self.removed: set[Item] = set()
        self.wants: dict[str, Item] = {}
        self.ended: dict[str, str] = {}
        self.violations: list[str] = []
        self.misses: list[str] = []
        self._inbox: list[tuple[float, int, Event]] = []
        self._works: list[tuple[float, int, Work]] = []
        self._sent = 0

    def chance(self, probability: float) -> bool:
        return self.dice.random() < probability

    def store(self, place: Place) -> FakeStore:
        """Return the store of a place; a shard's log has one without a budget, made when first asked for."""
        if place == NETWORK:
            return self.network
        return self.nodes[place.node].stores.setdefault(place, FakeStore(None))

    def add(self, spec: Spec) -> None:
        """Put the durable copy of a new item where its spec says."""
        self.specs[spec.item] = spec
        nbytes = 0 if spec.kind == "shard" else spec.nbytes
        self.store(spec.durable).held[spec.item] = Held(nbytes, self.now_s)

    def reaches(self, place: Place) -> bool:
        """Tell whether a place answers: its node is alive, or it is the network."""
        return place == NETWORK or self.nodes[place.node].alive

    def places_of(self, item: Item) -> set[Place]:
        """Return where an item really is, on dead nodes too."""
        stores = [(NETWORK, self.network)]
        stores += [pair for node in self.nodes.values() for pair in node.stores.items()]
        return {place for place, store in stores if item in store.held}

    def calm_room(self, place: Place, high: float) -> int:
        """Return the bytes that a place takes before its memory is filled beyond `high`."""
        store = self.store(place)
        if place not in self.memory or store.room is None:
            return sys.maxsize
        taken = store.room.fixed + sum(held.nbytes for held in store.held.values())
        return int(high * self.memory[place]) - self.others.get(place, 0) - taken

    def lose_file(self, item: Item) -> None:
        """A fault destroys the durable file of an adapter; what lies at an address is out of its reach."""
        place = self.specs[item].durable
        if place != NETWORK and self.store(place).held.pop(item, None) is not None:
            self.damaged.add(item)

    def believe(self, spec: Spec) -> None:
        """The brain takes another place for the durable one (or for the landing): it must really be there."""
        known = self.specs[spec.item]
        if spec.durable != known.durable and spec.durable not in self.places_of(spec.item):
            told = f"{spec.item} is said to be durable at {spec.durable}, which lacks it"
            (self.misses if spec.item in self.damaged else self.violations).append(told)
        self.specs[spec.item] = spec

    def kill(self, name: str) -> None:
        """A node dies: RAM and VRAM are lost, files are not, and nothing that was sent to it will be done."""
        node = self.nodes[name]
        node.alive, node.life = False, node.life + 1
        for place, store in node.stores.items():
            store.coming.clear()
            for held in store.held.values():
                held.leases = 0
            if place.tier is not Tier.SSD:
                store.held.clear()

    def send(self, event: Event, *, sure: bool = False) -> None:
        """Let the brain learn of `event` after a delay; unless `sure`, maybe twice or never."""
        if not sure and self.chance(self.faults.loss):
            return
        for _ in range(1 if sure or not self.chance(self.faults.twice) else 2):
            heapq.heappush(self._inbox, (self._later(), self._number(), event))

    def take(self, command: Command) -> None:
        """Accept a command of the brain: wants end at once, work travels to its node."""
        match command:
            case Grant(want, item, place):
                self._end(want, item, "granted")
                self._serve(item, place)
            case Refuse(want, item, code):
                self._end(want, item, code)
            case Copy(target=place) | Drop(place=place):
                if not self.chance(self.faults.loss):
                    work = Work(command, place, self.nodes[place.node].life, arrives=True)
                    heapq.heappush(self._works, (self._later(), self._number(), work))

    def ask(self, item: Item) -> bool:
        """Somebody asks a role without a word to the brain; False if its engine has no open slot for it."""
        place = self.specs[item].serves_at
        return place is not None and self._lease(item, place)

    def beat(self, name: str) -> None:
        """Ask a node for what it holds; the answer tells the truth of a moment in between."""
        node = self.nodes[name]
        if node.alive:
            work = Work(self.now_s, Place(name, Tier.SSD), node.life, arrives=True)
            heapq.heappush(self._works, (self._later(), self._number(), work))

    def events_until(self, until_s: float) -> Iterator[Event]:
        """Let time pass; yield each event at the moment (`now_s`) when the brain learns of it."""
        while True:
            due = [queue[0][0] for queue in (self._inbox, self._works) if queue]
            if not due or min(due) > until_s:
                break
            self.now_s = max(self.now_s, min(due))
            if self._works and self._works[0][0] <= self.now_s:
                self._perform(heapq.heappop(self._works)[2])
            else:
                yield heapq.heappop(self._inbox)[2]
        self.now_s = until_s

    def _number(self) -> int:
        self._sent += 1
        return self._sent

    def _later(self) -> float:
        return self.now_s + self.dice.random() * self.faults.delay_s

    def _end(self, want: str, item: Item, how: str) -> None:
        if self.wants.pop(want, None) != item:
            self.violations.append(
                f"want {want} for {item} {how}, and it was {self.ended.get(want, 'not open')}"
            )
        self.ended[want] = how

    def _serve(self, item: Item, place: Place) -> None:
        if not self._lease(item, place):
            self.misses.append(f"{item} was granted at {place}, which lacks it")

    def _lease(self, item: Item, place: Place) -> bool:
        """Begin a request of up to 3 s, if the item is there and open."""
        held = self.store(place).held.get(item)
        if held is None or held.closed_s is not None or not self.nodes[place.node].alive:
            return False
        held.leases, held.hits, held.used_s = held.leases + 1, held.hits + 1, self.now_s
        work = Work(held, place, self.nodes[place.node].life, arrives=False)
        heapq.heappush(self._works, (self.now_s + 3 * self.dice.random(), self._number(), work))
        return True

    def _perform(self, work: Work) -> None:
        node = self.nodes[work.place.node]
        if node.life != work.life or not node.alive:
            if isinstance(work.task, Copy) and self.chance(0.5):
                self.send(CopyFailed(work.task.op, "TRC013", f"{node.name} died"))
            return
        match work.task:
            case Held() as held:
                held.leases, held.used_s = held.leases - 1, self.now_s
            case Copy() as copy if work.arrives:
                self._begin_copy(copy, work)
            case Copy() as copy:
                self._end_copy(copy)
            case Drop() as drop:
                self._drop(drop, work)
            case float() as asked_s:
                self.send(self._inventory(node, asked_s))

    def _inventory(self, node: FakeNode, asked_s: float) -> Beat:
        places = {
            place: {
                item: Seen(
                    held.leases, 0.0 if held.leases else self.now_s - held.used_s, held.hits, held.nbytes
                )
                for item, held in store.held.items()
            }
            for place, store in node.stores.items()
        }
        gauges = {
            place: (Gauge(self.memory[place], self.others.get(place, 0), "pretended"),)
            for place in node.stores
            if place in self.memory
        }
        return Beat(node.name, asked_s, places, gauges)

    def _begin_copy(self, copy: Copy, work: Work) -> None:
        target, spec = self.store(copy.target), self.specs[copy.item]
        if copy.source == NETWORK and copy.target.tier is not Tier.SSD:
            self.violations.append(f"{copy.op} fetches {copy.item} to {copy.target}, past the SSD")
        if copy.source.tier is Tier.VRAM:
            self.violations.append(f"{copy.op} reads {copy.item} in VRAM")
        if copy.item in target.held:
            target.held[copy.item].closed_s = None
            self.send(Copied(copy.op, copy.nbytes, 0.0))
        elif not self.reaches(copy.source) or copy.item not in self.store(copy.source).held:
            self.misses.append(f"{copy.op} reads {copy.item} at {copy.source}, which lacks it")
            self.send(CopyFailed(copy.op, "STO001", f"{copy.source} lacks it"))
        elif not target.has_room(spec, self.specs):
            self.violations.append(f"{copy.op} brings {copy.item} to {copy.target}, which is full")
            self.send(CopyFailed(copy.op, "STO003", f"{copy.target} is full"))
        elif self.chance(self.faults.copy_fails):
            self.send(CopyFailed(copy.op, "STO009", "bad luck", permanent=self.chance(0.1)))
        else:
            target.coming[copy.op] = spec
            done_s = self.now_s + self.dice.random()
            heapq.heappush(
                self._works, (done_s, self._number(), Work(copy, copy.target, work.life, arrives=False))
            )

    def _end_copy(self, copy: Copy) -> None:
        target = self.store(copy.target)
        del target.coming[copy.op]
        if not self.reaches(copy.source):
            self.send(CopyFailed(copy.op, "TRC013", f"{copy.source.node} died"))
            return
        target.held.setdefault(copy.item, Held(copy.nbytes, self.now_s))
        self.send(Copied(copy.op, copy.nbytes, 0.5))

    def _drop(self, drop: Drop, work: Work) -> None:
        store, spec = self.store(drop.place), self.specs[drop.item]
        held = store.held.get(drop.item)
        if held is None:
            self.send(Dropped(drop.op))
        elif held.leases and drop.drains and self._drains(held, work):
            again = Work(drop, drop.place, work.life, arrives=False)
            heapq.heappush(self._works, (self.now_s + POLL_S, self._number(), again))
        elif held.leases:
            held.closed_s = None
            self.send(DropRefused(drop.op, held.leases))
        else:
            if drop.item not in self.removed:
                self._blame(drop, spec)
            del store.held[drop.item]
            self.send(Dropped(drop.op))

    def _drains(self, held: Held, work: Work) -> bool:
        """Close an item to new requests; tell whether those in flight are still to be waited for."""
        if work.arrives and held.closed_s is None:
            held.closed_s = self.now_s
        return held.closed_s is not None and self.now_s < held.closed_s + DRAIN_S

    def _blame(self, drop: Drop, spec: Spec) -> None:
        """Record what a drop of an item of the lab destroys for good."""
        if drop.place == spec.durable:
            self.violations.append(f"{drop.op} drops the durable copy of {drop.item}")
        others = self.places_of(drop.item) - {drop.place}
        files = [place for place in others if place.tier in {Tier.SSD, Tier.NETWORK}]
        if drop.place.tier is Tier.SSD and not files:
            told = f"{drop.op} drops the last file of {drop.item}"
            (self.misses if drop.item in self.damaged else self.violations).append(told)
        if spec.kind == "shard" and not others - {spec.durable}:
            self.misses.append(f"{drop.op} drops the only index of {drop.item}")
