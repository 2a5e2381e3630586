"""What the lab is like now: a frozen value with questions. Only `placement.apply` makes a new one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NewType

from placement.tiers import Tier

if TYPE_CHECKING:
    from placement.messages import Copy, Drop

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
        """Return `desk:RAM`, `desk:VRAM(cpu)`."""
        return f"{self.node}:{self.tier}({self.device})" if self.device else f"{self.node}:{self.tier}"


@dataclass(frozen=True, slots=True)
class Spec:
    """What the file says of one item; `nbytes` is what it takes at each place where it is.

    `durable` is the SSD place whose copy is never dropped while the item is registered. A shard's durable
    copy is its log: a place of its own (device "log") that no budget counts, on the node where the shard
    lives.
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
    """An ordered move that is not done yet; `before` is the override that comes back if it fails."""

    to: Place
    before: Place | None
    cause: str
    deadline_s: float


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
    #: last use of each item where it serves: what "idle" counts from
    uses: Mapping[Item, float] = field(default_factory=dict)
    #: until when a granted item stays, so that its caller can take the lease
    holds: Mapping[Item, float] = field(default_factory=dict)
    #: last Tick; one that comes late proves nothing about the nodes
    ticked_s: float = -math.inf

    def alive(self, node: str) -> bool:
        """Tell whether the node has joined and is not lost."""
        known = self.nodes.get(node)
        return known is not None and known.alive

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

    def home(self, item: Item) -> Place:
        """Return where the item belongs: the last ordered move, else the file."""
        return self.homes.get(item) or self.items[item].home

    def pinned(self, item: Item) -> bool:
        """Tell whether the item must stay at its home."""
        return item in self.pins

    def idle_home(self, item: Item) -> Place:
        """Return where the item rests after `idle_s` without use.

        That is below its home if the file says so and a node offers the place, else its home.
        """
        to, home = self.items[item].unload_to, self.home(item)
        if to is None or to not in self.rooms or to.tier.height >= home.tier.height or self.pinned(item):
            return home
        return to

    def rest(self, item: Item, now_s: float) -> Place:
        """Return where the item should be now: its home, or its idle home once it was idle for `idle_s`."""
        spec = self.items[item]
        if spec.unload_to is None or now_s - self.uses[item] < spec.idle_s:
            return self.homes.get(item, spec.home)
        return self.idle_home(item)

    def idle_until(self, item: Item, now_s: float) -> float | None:
        """Return when idling will take the item away from somewhere, or None if nothing would leave."""
        spec, stays = self.items[item], self.idle_home(item)
        leaving = any(r.phase == "ready" and p not in (stays, spec.durable) for p, r in self.at(item))
        return max(self.uses[item] + spec.idle_s, now_s) if leaving and spec.idle_s < math.inf else None

    def goal(self, item: Item) -> Place:
        """Return where a want for the item makes it ready: its engine's VRAM, or a shard's home."""
        return self.items[item].serves_at or self.home(item)

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


@dataclass(frozen=True, slots=True)
class Limits:
    """The brain's own numbers; all times in seconds."""

    #: an op ends as failed after this and the time that its bytes take at `slowest_nbytes_s`
    op_s: float = 30.0
    slowest_nbytes_s: int = 20 * 2**20
    #: the pause after a failure doubles from the first to the second
    backoff_s: float = 1.0
    backoff_max_s: float = 60.0
    #: a node without a beat for this long is lost
    beat_timeout_s: float = 10.0
    #: a granted item is not evicted before this, so that its caller gets there
    hold_s: float = 2.0
    #: an ordered move that is not done after this is rolled back
    move_s: float = 600.0
    #: copies in flight into one place
    copies_per_place: int = 4
