"""What the lab is like now: a frozen value with questions. Only `placement.apply` makes a new one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NewType

from placement.habits import Habits
from placement.heat import Asks, Heat
from placement.limits import Limits as Limits
from placement.speed import Speed
from placement.tiers import Tier

if TYPE_CHECKING:
    from placement.messages import Copy, Drop
    from placement.warmth import Unload, Warm

#: "philosopher@3fa9c1d2b0aa" (an adapter version) or "plato#shard" (a shard)
Item = NewType("Item", str)
Kind = Literal["adapter", "shard"]
Phase = Literal["loading", "ready", "leaving"]


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A tier of a node; a VRAM place names its device, a shard's log is the place with device "log"."""

    node: str
    tier: Tier
    device: str = ""

    def __str__(self) -> str:
        """Return `desk:RAM`, `desk:VRAM(cpu)`, `network`."""
        if self.tier is Tier.NETWORK:
            return str(self.tier)
        return f"{self.node}:{self.tier}({self.device})" if self.device else f"{self.node}:{self.tier}"


#: where everything rests that lies at an address: always alive, without a budget, never beating
NETWORK = Place("network", Tier.NETWORK)


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

    `serves_at` is the engine of an adapter; of a shard, the engine in whose memory its index may lie. After
    the use of an item named in `after`, and with `at_start` at its first registration, it is warmed.
    """

    item: Item
    name: str
    kind: Kind
    nbytes: int
    home: Place
    serves_at: Place | None
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
    """An item at a place. `leases` and `hits` are what the last beat said; `op` made it or is removing it."""

    phase: Phase
    since_s: float
    used_s: float
    leases: int = 0
    hits: int = 0
    op: str = ""


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


@dataclass(frozen=True, slots=True)
class Want:
    """A request that needs `item` ready where it serves."""

    want: str
    item: Item
    deadline_s: float
    since_s: float


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


@dataclass(frozen=True, slots=True)
class State:
    """Everything the brain knows. Never changed in place; `apply` and `begin` return the next one.

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
    #: what the latest beats measured of the memory behind a place
    gauges: Mapping[Place, tuple[Gauge, ...]] = field(default_factory=dict)
    #: places that were over their high mark, and when last
    pressed: Mapping[Place, float] = field(default_factory=dict)
    #: last use of each item where it serves: what "idle" counts from
    uses: Mapping[Item, float] = field(default_factory=dict)
    #: until when a granted item stays, so that its caller can take the lease
    holds: Mapping[Item, float] = field(default_factory=dict)
    #: until when an item that was warmed is sure to be asked for
    expected: Mapping[Item, float] = field(default_factory=dict)
    #: what copies between two places told of their speed
    speeds: Mapping[tuple[Place, Place], Speed] = field(default_factory=dict)
    #: how often each item is asked for, and all together
    heat: Mapping[Item, Heat] = field(default_factory=dict)
    asks: Asks = field(default_factory=Asks)
    #: who is used after whom
    habits: Habits = field(default_factory=Habits)
    #: last Tick; one that comes late proves nothing about the nodes
    ticked_s: float = -math.inf

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
        return sum(self.shelves.get(place, {}).values()) + sum(self.strangers.get(place, {}).values())

    def seated(self, place: Place, base: str) -> int:
        """Return how many seats of `base` are taken at a VRAM place."""
        return sum(self.items[item].base == base for item in self.shelves.get(place, {}))

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

    def rest(self, item: Item, now_s: float) -> Place:
        """Return where the item should be now: its home, or its idle home once it was idle for `idle_s`."""
        spec = self.items[item]
        if item in self.unloads:
            return self.idle_home(item)
        if spec.unload_to is None or now_s - self.uses[item] < spec.idle_s:
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
        """Return where a want for the item makes it ready: its engine's VRAM, or a shard's home."""
        spec = self.items[item]
        return spec.serves_at if spec.serves_at and spec.kind == "adapter" else self.home(item)

    def serves(self, item: Item, place: Place) -> bool:
        """Tell whether a replica there answers requests: an adapter's in VRAM, a shard's index."""
        spec = self.items[item]
        return place == spec.serves_at if spec.kind == "adapter" else place != spec.durable

    def served_at(self, item: Item) -> Place | None:
        """Return the ready place that answers requests now (the highest tier), or None."""
        ready = [p for p in self.spots.get(item, ()) if self.serves(item, p) and self.ready(item, p)]
        return max(ready, key=lambda place: place.tier.height, default=None)

    def wanted(self, item: Item) -> bool:
        """Tell whether a want for the item is open."""
        return any(want.item == item for want in self.wants.values())

    def blocked(self, item: Item, place: Place, now_s: float) -> Setback | None:
        """Return the setback that forbids another try at this item and place now, or None."""
        setback = self.backoff.get((item, place))
        return setback if setback is not None and now_s < setback.until_s else None
