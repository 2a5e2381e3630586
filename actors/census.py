"""What the actors report, gathered: a Beat for the Machine, and the Listing that `ps` shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from actors.listing import Listing, Member, Space, Thing
from actors.muster import log_of, shard_item
from placement.config.engines import base_of_engine
from placement.messages import Beat, Seen
from placement.pressure import level
from placement.rows import Row, rows
from placement.state import Gauge, Item, Place
from placement.tiers import Tier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from actors.crew import Crew
    from actors.engine import Decoding
    from actors.journal import Journal
    from actors.lm.stats import Stats
    from actors.shard import Shelved
    from actors.store import Stored
    from placement.machine import Machine
    from placement.state import State


@dataclass(frozen=True, slots=True)
class Presence:
    """What the coordinator reports of itself."""

    pid: int
    rss: int
    epoch: int


@dataclass(slots=True)
class Census:
    """The last report of each actor; None from one that did not answer."""

    stores: dict[str, Stored | None] = field(default_factory=dict)
    engines: dict[str, Decoding | None] = field(default_factory=dict)
    shards: dict[str, Shelved | None] = field(default_factory=dict)
    #: reports of the actors that hold no items: embedders and roles, by actor name
    others: dict[str, Any] = field(default_factory=dict)
    #: engines that have died and do not run yet
    ended: set[str] = field(default_factory=set)
    #: asks of each item: the sum over its engines, or of its shard, and over their restarts
    hits: dict[Item, int] = field(default_factory=dict)
    #: what each engine, or the shard, said last
    _told: dict[tuple[Item, str], int] = field(default_factory=dict)

    def count(self) -> None:
        """Add up how often each item was asked; a count that fell began anew with its actor."""
        for engine, decoding in self.engines.items():
            for item, use in (decoding.slots if decoding is not None else {}).items():
                self._add(Item(item), engine, use.hits)
        for name, shelved in self.shards.items():
            if shelved is not None:
                self._add(shard_item(name), "", shelved.searches)

    def _add(self, item: Item, engine: str, hits: int) -> None:
        last = self._told.get((item, engine), 0)
        self.hits[item] = self.hits.get(item, 0) + (hits - last if hits >= last else hits)
        self._told[item, engine] = hits


def answered(crew: Crew, census: Census, node: str) -> bool:
    """Tell whether any actor on `node` that holds items answered; if none did, the node's silence counts."""
    reports = {
        f"store:{node}": census.stores.get(node),
        **{f"engine:{name}": report for name, report in census.engines.items()},
        **{f"shard:{name}": report for name, report in census.shards.items()},
    }
    return any(report is not None and crew.where(actor) == node for actor, report in reports.items())


def beat(crew: Crew, census: Census, state: State, node: str, asked_s: float) -> Beat:
    """Return what `node` holds, place by place, and how full it is.

    A place whose actor did not answer is not in it, but for one of several engines that has died: its place
    is empty, and the others take over before it is back. What is being fetched takes room on the SSD already.
    """
    places: dict[Place, dict[Item, Seen]] = {}
    gauges: dict[Place, tuple[Gauge, ...]] = {}
    stored = census.stores.get(node)
    if stored is not None:
        places[Place(node, Tier.RAM)] = _images(stored.ram)
        gauges = {
            Place(node, tier): tuple(_less(gauge, _indexed(crew, census, node, tier)) for gauge in found)
            for tier, found in stored.gauges.items()
        }
        if stored.started:
            places[Place(node, Tier.SSD)] = _images(stored.fetching) | _images(stored.ssd)
    for engine, report in census.engines.items():
        place = crew.engine_places.get(engine)
        if place is not None and place.node == node and _has_ended(crew, census, engine):
            places.setdefault(place, {})
        elif report is not None and place is not None and place.node == node:
            places.setdefault(place, {}).update(seated(state, engine, place, report))
            if report.gauge is not None:
                gauges[place] = (_less(report.gauge, _beside(crew, census, engine, place)),)
    _add_shards(crew, census, state, node, places)
    known = {place: held for place, held in places.items() if place in state.rooms or place.device == "log"}
    return Beat(node, asked_s, known, {place: told for place, told in gauges.items() if place in state.rooms})


def _has_ended(crew: Crew, census: Census, engine: str) -> bool:
    """Tell whether an engine has died that is one of several of its base."""
    return engine in census.ended and len(crew.fleet_of(base_of_engine(engine))) > 1


def seated(state: State, engine: str, place: Place, report: Decoding) -> dict[Item, Seen]:
    """Return what an engine holds at its place, and how it is used."""
    slots = {
        Item(item): Seen(use.leases, use.idle_s, use.hits - use.earlier, report.slot_nbytes)
        for item, use in report.slots.items()
        if item not in report.closing or _leaves(state, Item(item), place)
    }
    held = {
        Item(item): Seen(use.leases, use.idle_s, use.hits, use.nbytes) for item, use in report.held.items()
    }
    return slots | held | _shadows(state, engine, report)


def _shadows(state: State, engine: str, report: Decoding) -> dict[Item, Seen]:
    """Return what the shadows of an engine take beyond their images, which are all that the ledger knows.

    It has no item, so it takes room as what nobody registered does.
    """
    beyond = sum(
        max(0, use.nbytes - state.items[Item(item)].nbytes)
        for item, use in report.slots.items()
        if Item(item) in state.items
    )
    return {Item(f"shadows of {engine}"): Seen(nbytes=beyond)} if beyond else {}


def _less(gauge: Gauge, ours: int) -> Gauge:
    """Return a gauge without bytes that the ledger counts, and that its reader took for others'."""
    return replace(gauge, others=max(0, gauge.others - ours))


def _indexed(crew: Crew, census: Census, node: str, tier: Tier) -> int:
    """Return the bytes of the shards' indexes in a tier of a node."""
    return sum(
        report.nbytes
        for name, report in census.shards.items()
        if report is not None and report.tier is tier and crew.shard_node(name) == node
    )


def _beside(crew: Crew, census: Census, engine: str, place: Place) -> int:
    """Return the bytes that the lab's other engines have on the same device."""
    return sum(
        report.memory
        for other, report in census.engines.items()
        if report is not None and other != engine and crew.engine_places.get(other) == place
    )


def _leaves(state: State, item: Item, place: Place) -> bool:
    """Tell whether we sent an item away; one that closes by an order of before our time is taken as gone."""
    replica = state.replicas.get((item, place))
    return replica is not None and replica.phase == "leaving"


def _images(held: Mapping[str, int]) -> dict[Item, Seen]:
    return {Item(item): Seen(nbytes=nbytes) for item, nbytes in held.items()}


def _add_shards(
    crew: Crew, census: Census, state: State, node: str, places: dict[Place, dict[Item, Seen]]
) -> None:
    """Add the node's shards: the log as the durable copy, the index that answers as a replica.

    A shard that did not answer is reported as last known: its silence proves nothing about its files.
    """
    log = log_of(node)
    for name, report in census.shards.items():
        if crew.shard_node(name) != node or crew.lab.rag[name].location is Tier.NETWORK:
            continue
        item = shard_item(name)
        places.setdefault(log, {})[item] = Seen()
        for place in (Place(node, Tier.RAM), Place(node, Tier.SSD)):
            if place not in places:
                continue
            if report is None and state.ready(item, place):
                places[place][item] = Seen()
            elif report is not None and report.tier is place.tier:
                places[place][item] = Seen(report.leases, report.idle_s, report.searches - report.earlier)


def listing(crew: Crew, census: Census, machine: Machine, journal: Journal, now_s: float) -> Listing:
    """Return the whole lab as `ps` shows it, in the order of the file; of a role, the version that serves."""
    state = machine.state
    serving = {version.item for version in journal.versions()}
    by_name: dict[str, Row] = {}
    for row in sorted(rows(state, now_s, machine.limits), key=lambda row: row.item not in serving):
        by_name.setdefault(row.name, row)
    failed = {failure.role: failure for failure in journal.failures()}
    times = Counter(activation.item for activation in journal.activations())
    things = []
    for kind, names in (("role", crew.lab.roles), ("shard", crew.lab.rag)):
        for name in names:
            problem = f"{failed[name].message} [{failed[name].code}]" if name in failed else ""
            if name in by_name:
                row = by_name[name]
                hits = census.hits.get(row.item, 0)
                things.append(_thing(kind, row, problem, hits, times[row.item], now_s))
            elif kind == "shard" and crew.lab.rag[name].location is Tier.NETWORK:
                things.append(_remote(name, census.shards.get(name), problem))
            else:
                home = crew.lab.roles[name].location if kind == "role" else None
                things.append(_absent(kind, name, problem, unfetched=home is Tier.NETWORK))
    return Listing(crew.lab.name, state.epoch, tuple(things), _members(crew, census), _spaces(state))


def _absent(kind: str, name: str, problem: str, *, unfetched: bool) -> Thing:
    """Return the row of what has no item: it failed, or it rests at an address and was never fetched."""
    resting = unfetched and not problem
    return Thing(
        kind=kind,
        name=name,
        version="",
        tier="network" if resting else "",
        node="network" if resting else "-",
        home="network" if unfetched else "-",
        copies=(),
        nbytes=0,
        leases=0,
        last_used_s=None,
        idle_until_s=None,
        activations=0,
        hits=0,
        pinned=False,
        phase="cold" if resting else "failed",
        problem=problem,
    )


def _remote(name: str, report: Shelved | None, problem: str) -> Thing:
    """Return the row of a shard that a server keeps."""
    told = problem or (report.problem if report else "")
    reached = report is not None and report.reachable and not problem
    return Thing(
        kind="shard",
        name=name,
        version="",
        tier="network" if reached else "",
        node="network",
        home="network",
        copies=(),
        nbytes=report.nbytes if report else 0,
        leases=report.leases if report else 0,
        last_used_s=report.idle_s if report and report.searches else None,
        idle_until_s=None,
        activations=0,
        hits=report.searches if report else 0,
        pinned=False,
        phase="ready" if reached else "failed",
        problem=told,
    )


def _thing(kind: str, row: Row, problem: str, hits: int, activations: int, now_s: float) -> Thing:
    ready = [spot.place for spot in row.places if spot.phase == "ready" and spot.place.device != "log"]
    top = ready[0] if ready else None
    return Thing(
        kind=kind,
        name=row.name,
        version=row.item.partition("@")[2],
        tier="" if top is None else f"{top.tier}({top.device})" if top.device else str(top.tier),
        node=top.node if top else row.home.node,
        home=str(row.home),
        copies=tuple(f"{spot.place} {spot.phase}" for spot in row.places),
        nbytes=row.nbytes,
        leases=row.leases,
        last_used_s=max(0.0, now_s - row.used_s) if hits else None,
        idle_until_s=None if row.idle_until_s is None else max(0.0, row.idle_until_s - now_s),
        activations=activations,
        hits=hits,
        pinned=row.pinned,
        phase=row.phase,
        problem=problem or (row.why if row.phase in {"failed", "lost", "cold"} else ""),
    )


def _members(crew: Crew, census: Census) -> tuple[Member, ...]:
    reports: Mapping[str, Any] = {
        **{f"store:{name}": report for name, report in census.stores.items()},
        **{f"engine:{name}": report for name, report in census.engines.items()},
        **{f"shard:{name}": report for name, report in census.shards.items()},
        **census.others,
    }
    return tuple(
        _member(name, crew.where(name), reports.get(name)) for name in ("coordinator", *crew.everyone())
    )


def _member(name: str, node: str, report: Any) -> Member:
    if report is None:
        return Member(name, node, 0, 0, "silent")
    stats: Stats | None = getattr(report, "stats", None)
    state = "running" if getattr(report, "started", True) else "starting"
    if stats is not None and stats.stalled:
        state = "stalled"
    return Member(name, node, report.pid, report.rss, state, "" if stats is None else str(stats))


def _spaces(state: State) -> tuple[Space, ...]:
    return tuple(
        Space(
            place=str(place),
            fixed=room.fixed,
            used=state.used(place),
            budget=room.budget,
            seats=" ".join(
                f"{base} {state.seated(place, base)}/{seats}" for base, seats in room.seats.items()
            ),
            memory=f"{level(state, place)}{', pressed' if place in state.pressed else ''}",
        )
        for place, room in sorted(state.rooms.items())
    )
