"""What the lab is like now: a value with questions. Only drafts are written, by `placement.apply`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from placement.habits import Habits
from placement.heat import Asks, Heat
from placement.limits import Limits
from placement.pending import Move, Op, Setback, Want
from placement.place import NETWORK, Item, Kind, Phase, Place
from placement.speed import Hop, Speed
from placement.tally import EMPTY, Tally
from placement.tiers import Tier

if TYPE_CHECKING:
    from placement.patience import Patience
    from placement.warmth import Unload, Warm

__all__ = [
    "NETWORK",
    "Gauge",
    "Item",
    "Kind",
    "Limits",
    "Move",
    "Node",
    "Op",
    "Phase",
    "Place",
    "Replica",
    "Room",
]
__all__ += ["Setback", "Spec", "State", "Tally", "Want"]


@dataclass(frozen=True, slots=True)
class Gauge:
    """The memory behind a place: `total` bytes, `others` of them taken by others than this lab.

    `source` says who measured: "NVML", "psutil", "object store", "statvfs" or "ledger".
    """

    total: int
    others: int
    source: str


@dataclass(frozen=True, slots=True)
class Spec:
    """What the file says of one item; `nbytes` is what it takes at each place where it is.

    `durable` is the SSD place whose copy is never dropped while the item is registered; an ordered move to
    another node changes it. A shard's durable copy is its log: a place of its own (device "log") that no
    budget counts, on the node where the shard lives. An adapter at an address has NETWORK for its durable
    place, and `landing` is the SSD place where its bytes arrive from there.

    `serves_at` are the engines of an adapter's base, in the order of the file; of a shard, the one in whose
    memory its index may lie, if there is any. After the use of an item named in `after`, and with `at_start`
    at its first registration, it is warmed.
    """

    item: Item
    name: str
    kind: Kind
    nbytes: int
    home: Place
    serves_at: tuple[Place, ...]
    base: str
    digest: str
    durable: Place
    idle_s: float = math.inf
    unload_to: Place | None = None
    pinned: bool = False
    landing: Place | None = None
    after: tuple[str, ...] = ()
    at_start: bool = False


@dataclass(frozen=True, slots=True)
class Replica:
    """An item at a place. `leases` and `hits` are what the last beat said; `op` made it or is removing it.

    `hits` are its uses since it came; `owed` of those that are still to be seen were counted when they were
    wanted.
    """

    phase: Phase
    since_s: float
    used_s: float
    leases: int = 0
    hits: int = 0
    op: str = ""
    owed: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """Capacity of a place: `budget` bytes, `fixed` of them for base weights and KV cache; seats per base."""

    budget: int
    fixed: int = 0
    seats: Mapping[str, int] = field(default_factory=dict)

    @property
    def capacity(self) -> int:
        """Return the bytes that items may take."""
        return self.budget - self.fixed


@dataclass(frozen=True, slots=True)
class Node:
    """A machine: alive or lost since `since_s`; `why` it is lost."""

    alive: bool
    since_s: float
    last_beat_s: float
    why: str = ""


@dataclass(slots=True)
class State:
    """Everything the brain knows. Nobody writes to it but who made the `draft`, until it is handed out.

    All iteration is in insertion or sorted order, so equal events give equal commands.
    """

    epoch: int
    #: how many ops were issued in this epoch: the next one is "<epoch>.<issued + 1>"
    issued: int = 0
    nodes: Mapping[str, Node] = field(default_factory=dict)
    #: capacities of the places that the nodes offered when they joined; a place without a room takes nothing
    rooms: Mapping[Place, Room] = field(default_factory=dict)
    #: `asked_s` of the latest beat that listed the place; absent until one came since its node joined
    seen: Mapping[Place, float] = field(default_factory=dict)
    #: when we last learned that something left the place; a beat asked earlier adds nothing there
    settled: Mapping[Place, float] = field(default_factory=dict)
    items: Mapping[Item, Spec] = field(default_factory=dict)
    #: removed items whose replicas are still being dropped; a subset of `items`
    retired: frozenset[Item] = frozenset()
    #: homes by order; without an entry the home is `spec.home`
    homes: Mapping[Item, Place] = field(default_factory=dict)
    #: items that must stay at their homes, by the file or by order
    pins: frozenset[Item] = frozenset()
    replicas: Mapping[tuple[Item, Place], Replica] = field(default_factory=dict)
    #: the places of each item, sorted: an index of `replicas`
    spots: Mapping[Item, tuple[Place, ...]] = field(default_factory=dict)
    #: the items of each place with the bytes that they take: an index of `replicas`
    shelves: Mapping[Place, Mapping[Item, int]] = field(default_factory=dict)
    #: what each place's replicas come to: an index of `replicas`
    tallies: Mapping[Place, Tally] = field(default_factory=dict)
    #: the items that the use of a name warms: an index of `items`
    followers: Mapping[str, tuple[Item, ...]] = field(default_factory=dict)
    #: the item of each name that was registered last: an index of `items`
    versions: Mapping[str, Item] = field(default_factory=dict)
    #: the open wants of each item: an index of `wants`
    queue: Mapping[Item, tuple[Want, ...]] = field(default_factory=dict)
    #: who is wanted at each place, the longest wanted first: an index of `queue` by `goal`
    lines: Mapping[Place, Mapping[Item, None]] = field(default_factory=dict)
    #: when each item has to be looked at though nothing happens to it: -inf at every Tick, inf never
    due: Mapping[Item, float] = field(default_factory=dict)
    #: places that observation showed overfull; never by a decision of ours
    over: frozenset[Place] = frozenset()
    #: items whose durable copy a beat showed to be missing, since when
    gone: Mapping[Item, float] = field(default_factory=dict)
    #: what the latest beats showed and nobody registered, with the bytes that it takes
    strangers: Mapping[Place, Mapping[Item, int]] = field(default_factory=dict)
    wants: Mapping[str, Want] = field(default_factory=dict)
    ops: Mapping[str, Op] = field(default_factory=dict)
    backoff: Mapping[tuple[Item, Place], Setback] = field(default_factory=dict)
    moves: Mapping[Item, Move] = field(default_factory=dict)
    #: replicas that an ordered move sends away
    leaves: Mapping[Item, frozenset[Place]] = field(default_factory=dict)
    warms: Mapping[Item, Warm] = field(default_factory=dict)
    unloads: Mapping[Item, Unload] = field(default_factory=dict)
    #: items that a person sent below RAM and nobody has used since, and since when: none of them is kept near
    lowered: Mapping[Item, float] = field(default_factory=dict)
    #: what the latest beats measured of the memory behind a place
    gauges: Mapping[Place, tuple[Gauge, ...]] = field(default_factory=dict)
    #: places that were over their high mark, and when last
    pressed: Mapping[Place, float] = field(default_factory=dict)
    #: last use of each item where it serves: what "idle" counts from
    uses: Mapping[Item, float] = field(default_factory=dict)
    #: until when a granted item stays, so that its caller can take the lease
    holds: Mapping[Item, float] = field(default_factory=dict)
    #: of each item that several engines may serve, the one where it is to be ready
    aims: Mapping[Item, Place] = field(default_factory=dict)
    #: until when an item that was warmed is sure to be asked for
    expected: Mapping[Item, float] = field(default_factory=dict)
    #: items whose idle time is longer than the file's for a while
    patience: Mapping[Item, Patience] = field(default_factory=dict)
    #: what copies between two places, and between places like them, told of their speed
    speeds: Mapping[Hop, Speed] = field(default_factory=dict)
    #: how often each item is asked for, and all together
    heat: Mapping[Item, Heat] = field(default_factory=dict)
    asks: Asks = field(default_factory=Asks)
    #: who is used after whom
    habits: Habits = field(default_factory=Habits)
    #: last Tick; one that comes late proves nothing about the nodes
    ticked_s: float = -math.inf
    #: when the latest event came
    now_s: float = field(default=-math.inf, compare=False)
    #: of a draft: the items that it changed, and the mappings that are its own
    changed: dict[Item, None] = field(default_factory=dict, init=False, repr=False, compare=False)
    owned: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def draft(self) -> State:
        """Return a copy to write to: fields are set anew, and large mappings changed by `own`."""
        return State(*_VALUES(self))

    def own(self, name: str) -> dict[Any, Any]:
        """Return a mapping of this draft to change in place: a copy, made when it is first asked for."""
        if name not in self.owned:
            self.owned.add(name)
            setattr(self, name, getattr(self, name).copy())
        mine: dict[Any, Any] = getattr(self, name)
        return mine

    def alive(self, node: str) -> bool:
        """Tell whether the node has joined and is not lost; the network never is."""
        known = self.nodes.get(node)
        return node == NETWORK.node or (known is not None and known.alive)

    def ready(self, item: Item, place: Place) -> bool:
        """Tell whether the item can be read or served there now: ready, on a node that is alive."""
        replica = self.replicas.get((item, place))
        return replica is not None and replica.phase == "ready" and self.alive(place.node)

    def at(self, item: Item) -> Iterator[tuple[Place, Replica]]:
        """Yield the replicas of an item in the order of their places."""
        for place in self.spots.get(item, ()):
            yield place, self.replicas[item, place]

    def used(self, place: Place) -> int:
        """Return the bytes taken at a place: by what is ready, in flight or leaving, and by strangers."""
        tally = self.tallies.get(place, EMPTY)
        return tally.nbytes + sum(self.strangers[place].values()) if place in self.strangers else tally.nbytes

    def seated(self, place: Place, base: str) -> int:
        """Return how many seats of `base` are taken at a VRAM place."""
        return self.tallies.get(place, EMPTY).seats.get(base, 0)

    def takes_seat(self, item: Item, place: Place) -> bool:
        """Tell whether the item needs a seat there: an adapter in VRAM does, an index takes bytes only."""
        return place.tier is Tier.VRAM and self.items[item].kind == "adapter"

    def home(self, item: Item) -> Place:
        """Return where the item belongs: the last ordered move, else the file."""
        return self.homes.get(item) or self.items[item].home

    def pinned(self, item: Item) -> bool:
        """Tell whether the item must stay at its home."""
        return item in self.pins

    def idle_home(self, item: Item) -> Place:
        """Return where an idle item rests: below its home if the file says so and that exists, else there."""
        spec, home = self.items[item], self.home(item)
        to = spec.unload_to
        if to is None or to.tier.height >= home.tier.height or self.pinned(item):
            return home
        if to.tier is Tier.NETWORK:
            return NETWORK if spec.durable == NETWORK else home
        return to if to in self.rooms else home

    def idle_s(self, item: Item) -> float:
        """Return after how long without a use the item is idle: as the file says, longer if it came back."""
        told = self.patience.get(item)
        return self.items[item].idle_s * (told.times if told else 1.0)

    def rest(self, item: Item, now_s: float) -> Place:
        """Return where the item should be now: its home, or its idle home once it was idle for `idle_s`."""
        spec = self.items[item]
        if item in self.unloads:
            return self.idle_home(item)
        if spec.unload_to is None or now_s - self.uses[item] < self.idle_s(item):
            return self.homes.get(item, spec.home)
        return self.idle_home(item)

    def landing(self, item: Item) -> Place | None:
        """Return the SSD place where the item's bytes arrive from an address or from another node."""
        ordered = self.moves.get(item)
        return (ordered.landing if ordered is not None else None) or self.items[item].landing

    def keeps(self, item: Item, rest: Place) -> tuple[Place, ...]:
        """Return the places where idling leaves an item that rests at `rest`.

        What came from an address stays where it landed until the address is all that it needs.
        """
        spec = self.items[item]
        landed = spec.landing if spec.landing is not None and rest != NETWORK else rest
        return rest, spec.durable, landed

    def goal(self, item: Item) -> Place:
        """Return where a want for the item makes it ready: the VRAM of an engine, or a shard's home."""
        spec = self.items[item]
        if spec.kind != "adapter" or not spec.serves_at:
            return self.home(item)
        return self.aims.get(item) or spec.serves_at[0]

    def serves(self, item: Item, place: Place) -> bool:
        """Tell whether a replica there answers requests: an adapter's in VRAM, a shard's index."""
        spec = self.items[item]
        return place in spec.serves_at if spec.kind == "adapter" else place != spec.durable

    def served_at(self, item: Item) -> Place | None:
        """Return the ready place that answers requests now, or None.

        Of a shard's, the highest tier; of several engines, the one where least is in flight of the item.
        """
        ready = [p for p in self.spots.get(item, ()) if self.serves(item, p) and self.ready(item, p)]
        if len(ready) < 2:
            return ready[0] if ready else None
        return max(ready, key=lambda place: (place.tier.height, -self.replicas[item, place].leases))

    def wanted(self, item: Item) -> bool:
        """Tell whether a want for the item is open."""
        return item in self.queue

    def blocked(self, item: Item, place: Place, now_s: float) -> Setback | None:
        """Return the setback that forbids another try at this item and place now, or None."""
        setback = self.backoff.get((item, place))
        return setback if setback is not None and now_s < setback.until_s else None


_VALUES = attrgetter(*(each.name for each in fields(State) if each.init))
