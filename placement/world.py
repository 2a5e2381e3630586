"""A pretended lab with its own truth: its stores really hold or lack items and count their own bytes."""

import heapq
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from placement.deeds import drop, lease, perform
from placement.faults import Dice, Faults
from placement.messages import Beat, Command, Copy, Drop, Event, Grant, Refuse, Seen
from placement.pretended import FakeNode, FakeStore, Fate, Held, Work
from placement.state import NETWORK, Gauge, Item, Place, Room, Spec
from placement.tiers import Tier


class World:
    """Performs commands late, twice or never, and answers with events. `violations` is what must stay empty.

    `misses` are commands that found the world other than the brain believed: after a fault they are
    legitimate, in a calm world they are not. `counts` says how often what happened.
    """

    def __init__(self, rooms: Mapping[str, Mapping[Place, Room]], dice: Dice, faults: Faults) -> None:
        self.dice = dice
        self.faults = faults
        self.now_s = 0.0
        #: how far the coordinator's clock has jumped ahead
        self.skew_s = 0.0
        #: of the coordinator that is there now
        self.epoch = 1
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
        #: items of which a fault destroyed a file, and those whose source is gone as well
        self.damaged: set[Item] = set()
        self.sourceless: set[Item] = set()
        self.removed: set[Item] = set()
        self.wants: dict[str, Item] = {}
        self.ended: dict[str, str] = {}
        self.violations: list[str] = []
        self.misses: list[str] = []
        self.counts: Counter[str] = Counter()
        #: tells whether the brain counts an item at a place, or knows that the place is overfull
        self.counted: Callable[[Item, Place], bool] = lambda _item, _place: True
        self._inbox: list[tuple[float, int, Event]] = []
        self._works: list[tuple[float, int, Work]] = []
        self._sent = 0

    @property
    def clock_s(self) -> float:
        """Return what the coordinator's clock shows."""
        return self.now_s + self.skew_s

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.dice.random() < probability

    def happens(self, fault: str, probability: float) -> bool:
        """Tell whether a fault comes over the lab now, and count it."""
        if not self.chance(probability):
            return False
        self.counts[fault] += 1
        return True

    def store(self, place: Place) -> FakeStore:
        """Return the store of a place; a shard's log has one without a budget, made when first asked for."""
        if place == NETWORK:
            return self.network
        stores = self.nodes[place.node].stores
        if place not in stores:
            stores[place] = FakeStore(None)
        return stores[place]

    def life(self, place: Place) -> int:
        """Return a number that changes with each birth of the node or of the actor behind a place."""
        return self.nodes[place.node].life + self.store(place).life

    def add(self, spec: Spec) -> None:
        """Put the durable copy of a new item where its spec says."""
        self.specs[spec.item] = spec
        nbytes = 0 if spec.kind == "shard" else spec.nbytes
        self.store(spec.durable).held[spec.item] = Held(nbytes, self.now_s)

    def reaches(self, place: Place) -> bool:
        """Tell whether a place answers: its node is alive, or it is the network."""
        return place == NETWORK or self.nodes[place.node].alive

    def answers(self, node: FakeNode) -> bool:
        """Tell whether anything comes through to a node and from it."""
        return node.alive and self.now_s >= node.cut_s

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

    def believe(self, spec: Spec) -> None:
        """The brain takes another place for the durable one (or for the landing): it must really be there."""
        known = self.specs[spec.item]
        if spec.durable != known.durable and spec.durable not in self.places_of(spec.item):
            told = f"{spec.item} is said to be durable at {spec.durable}, which lacks it"
            (self.misses if spec.item in self.damaged else self.violations).append(told)
        self.specs[spec.item] = spec

    def send(self, event: Event, *, node: str = "", sure: bool = False) -> None:
        """Let the brain learn of `event` after a delay; unless `sure`, maybe twice or never.

        What a `node` tells does not come through while it is cut off.
        """
        if not sure:
            if (node and self.now_s < self.nodes[node].cut_s) or self.happens("loss", self.faults.loss):
                return
            if self.happens("twice", self.faults.twice):
                heapq.heappush(self._inbox, (self._later(), self._number(), event))
        heapq.heappush(self._inbox, (self._later(), self._number(), event))

    def take(self, command: Command) -> None:
        """Accept a command of the brain: wants end at once, work travels to its node."""
        match command:
            case Grant(want, item, place):
                self.end(want, item, "granted")
                if not lease(self, item, place):
                    self._blame_grant(item, place)
            case Refuse(want, item, code):
                self.end(want, item, code)
            case Copy(target=place) | Drop(place=place):
                node = self.nodes[place.node]
                if self.now_s < node.cut_s or self.happens("loss", self.faults.loss):
                    return
                fate = self._fate() if isinstance(command, Copy) else "well"
                work = Work(command, place, self.life(place), arrives=True, epoch=self.epoch, fate=fate)
                arrival_s = self._arrival(node)
                for _ in range(2 if self.happens("twice", self.faults.twice) else 1):
                    self.schedule(arrival_s, work)

    def _fate(self) -> Fate:
        """Return how a copy will go, as often as it is tried under its op."""
        if self.happens("copy fails", self.faults.copy_fails):
            return "for good" if self.chance(0.1) else "fails"
        return "corrupt" if self.happens("corrupt copy", self.faults.corrupt) else "well"

    def ask(self, item: Item) -> bool:
        """Somebody asks a role without a word to the brain; False if no engine has an open slot for it.

        Of several that have one, the engine that answers the fewest requests is asked first.
        """
        held = {place: self.store(place).held for place in self.specs[item].serves_at}
        busy = {place: sum(each.leases for each in there.values()) for place, there in held.items()}
        return any(lease(self, item, place) for place in sorted(held, key=busy.__getitem__))

    def beat(self, name: str) -> None:
        """Ask a node for what it holds; the answer tells the truth of a moment in between."""
        node = self.nodes[name]
        if self.answers(node):
            disk = Place(name, Tier.SSD)
            work = Work(self.clock_s, disk, self.life(disk), arrives=True, epoch=self.epoch)
            self.schedule(self._arrival(node), work)

    def schedule(self, at_s: float, work: Work) -> None:
        heapq.heappush(self._works, (at_s, self._number(), work))

    def events_until(self, until_s: float) -> Iterator[Event]:
        """Let time pass; yield each event at the moment (`now_s`) when the brain learns of it."""
        while True:
            inbox_s = self._inbox[0][0] if self._inbox else sys.float_info.max
            works_s = self._works[0][0] if self._works else sys.float_info.max
            if min(inbox_s, works_s) > until_s:
                break
            self.now_s = max(self.now_s, min(inbox_s, works_s))
            if works_s <= self.now_s:
                perform(self, heapq.heappop(self._works)[2])
            else:
                yield heapq.heappop(self._inbox)[2]
        self.now_s = until_s

    def hang_up(self) -> None:
        """The coordinator ends: reports on their way to it are lost, some answers reach the next one."""
        kept = [entry for entry in self._inbox if not isinstance(entry[2], Beat) and self.chance(0.3)]
        heapq.heapify(kept)
        self._inbox = kept
        for want in list(self.wants):
            self.end(want, self.wants[want], "cut off")

    def inventory(self, node: FakeNode, asked_s: float) -> Beat:
        """Return what a node holds now; a place whose actor is silent is not in it."""
        told = {place: store for place, store in node.stores.items() if self.now_s >= store.silent_s}
        places = {
            place: {
                item: Seen(
                    held.leases, 0.0 if held.leases else self.now_s - held.used_s, held.hits, held.nbytes
                )
                for item, held in store.held.items()
            }
            for place, store in told.items()
        }
        gauges = {
            place: (Gauge(self.memory[place], self.others.get(place, 0), "pretended"),)
            for place in told
            if place in self.memory
        }
        return Beat(node.name, asked_s, places, gauges)

    def end(self, want: str, item: Item, how: str) -> None:
        """A want ends, which it must do once."""
        if self.wants.pop(want, None) != item:
            self.violations.append(
                f"want {want} for {item} {how}, and it was {self.ended.get(want, 'not open')}"
            )
        self.ended[want] = how

    def clear(self, item: Item, place: Place) -> None:
        """Take a removed item from a place, as a sweep does that no op stands for."""
        drop(self, Drop("", item, place, "swept"), Work(0.0, place, self.life(place), arrives=True))

    def _blame_grant(self, item: Item, place: Place) -> None:
        store = self.store(place)
        on_its_way = item not in store.held and any(spec.item == item for spec in store.coming.values())
        told = f"{item} was granted at {place}, which {'is being filled' if on_its_way else 'lacks it'}"
        (self.violations if on_its_way and not store.life else self.misses).append(told)

    def _number(self) -> int:
        self._sent += 1
        return self._sent

    def _later(self) -> float:
        return self.now_s + self.dice.random() * self.faults.delay_s

    def _arrival(self, node: FakeNode) -> float:
        """Return when a call reaches a node: after those before it, unless calls are reordered."""
        arrival_s = self._later()
        if not self.faults.reorders:
            arrival_s = node.calls_s = max(arrival_s, node.calls_s)
        return arrival_s
