"""From the file to facts for the Machine: the room of each place, and the Spec of each role and shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from placement.errors import UserError
from placement.messages import NodeJoined
from placement.place import listed
from placement.state import NETWORK, Item, Limits, Place, Room, Spec, State
from placement.tiers import Tier
from placement.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from actors.cast import Cast
    from actors.journal import Version
    from actors.said import Orders
    from placement.config import Lab
    from placement.config.schema import Policy

#: Of a discovered machine, the share that a lab takes where its file does not say.
SHARE = 0.25


class EngineSizes(Protocol):
    """What an engine takes of its device, in bytes: told by it, or foreseen."""

    @property
    def device(self) -> str: ...
    @property
    def base_nbytes(self) -> int: ...
    @property
    def kv_nbytes(self) -> int: ...
    @property
    def slot_nbytes(self) -> int: ...


class NodeSizes(Protocol):
    """What a machine has, in bytes, and what of its disk the SSD tier holds already, by item."""

    @property
    def ram_total(self) -> int: ...
    @property
    def ssd_free(self) -> int: ...
    @property
    def ssd(self) -> Mapping[str, int]: ...


class ShardSizes(Protocol):
    """How large a shard's index is, and the digest of what it holds."""

    @property
    def nbytes(self) -> int: ...
    @property
    def digest(self) -> str: ...


def limits(policy: Policy, op_s: float) -> Limits:
    """Return the brain's numbers as the file's policy has them."""
    return Limits(
        op_s=op_s,
        high={Tier.VRAM: policy.vram_high, Tier.RAM: policy.ram_high, Tier.SSD: policy.ssd_high},
        frequency=policy.score.frequency,
        recency=policy.score.recency,
        cost=policy.score.cost,
        foresees=policy.warm_ahead,
        low={Tier.VRAM: policy.vram_low, Tier.RAM: policy.ram_low, Tier.SSD: policy.ssd_low},
    )


def log_of(node: str) -> Place:
    """Return the place of the shards' logs on `node`: durable, and in no budget."""
    return Place(node, Tier.SSD, "log")


def durable(node: str) -> Place:
    """Return the place on `node` that always keeps a copy."""
    return Place(node, Tier.SSD)


def engine_place(crew: Cast, engine: str, report: EngineSizes) -> Place:
    """Return the VRAM place of an engine: its node and device."""
    return Place(crew.node_of(crew.fleet[engine].node), Tier.VRAM, report.device)


def joined(crew: Cast, node: str, stored: NodeSizes, engines: Mapping[str, EngineSizes]) -> NodeJoined:
    """Return what a node brings: a Room for each of its places.

    Raises UserError CFG032 with the arithmetic if the bases of a device do not fit its VRAM.
    """
    config = crew.lab.nodes.get(node)
    ram = config.ram if config and config.ram is not None else int(stored.ram_total * SHARE)
    ssd = config.ssd.budget if config and config.ssd else None
    ssd = int((stored.ssd_free + sum(stored.ssd.values())) * SHARE) if ssd is None else ssd
    rooms = {Place(node, Tier.RAM): Room(ram, 0, {}), Place(node, Tier.SSD): Room(ssd, 0, {})}
    there: dict[tuple[Place, str], EngineSizes] = {}
    for engine, report in engines.items():
        place = engine_place(crew, engine, report)
        if place.node != node:
            continue
        base = crew.fleet[engine].base.name
        there[place, base] = report
        room = rooms.get(place) or Room(_vram(crew, place, stored), 0, {})
        fixed = room.fixed + report.base_nbytes + report.kv_nbytes
        rooms[place] = Room(room.budget, fixed, {**room.seats, base: crew.lab.bases[base].slots})
    for place, room in rooms.items():
        if place.tier is Tier.VRAM:
            _check_vram(crew.lab, place, room, {base: there[place, base] for base in room.seats})
    return NodeJoined(node, rooms)


def _vram(crew: Cast, place: Place, stored: NodeSizes) -> int:
    """Return the VRAM budget of a place; a discovered CPU gives a share of its RAM."""
    config = crew.lab.nodes.get(place.node)
    if config is None or config.vram is None:
        return int(stored.ram_total * SHARE)
    if isinstance(config.vram, int):
        return config.vram
    if place.device not in config.vram:
        told = ", ".join(config.vram)
        raise UserError(
            "CFG037", f"node {place.node} has no device {place.device!r}", f"its vram names: {told}"
        )
    return config.vram[place.device]


def _check_vram(lab: Lab, place: Place, room: Room, engines: Mapping[str, EngineSizes]) -> None:
    slots = {base: engines[base].slot_nbytes * lab.bases[base].slots for base in room.seats}
    needed = room.fixed + sum(slots.values())
    if needed <= room.budget:
        return
    parts = sorted(
        [
            *((engines[base].base_nbytes, f"base {base}") for base in room.seats),
            *((engines[base].kv_nbytes, f"KV cache of {base}") for base in room.seats),
            *((nbytes, f"{lab.bases[base].slots} slots of {base}") for base, nbytes in slots.items()),
        ],
        reverse=True,
    )
    told = " + ".join(f"{what} {format_bytes(nbytes)}" for nbytes, what in parts)
    raise UserError(
        "CFG032",
        f"{place} does not fit: {told} = {format_bytes(needed)}, budget {format_bytes(room.budget)}",
        f"give vram {format_bytes(needed)} or more, or lower slots, max_rank or kv_cache",
    )


def device_fault(crew: Cast, role: str) -> UserError | None:
    """Return the error CFG037 for a role that names another device than that of its base's engine."""
    base = crew.base_of(crew.lab.roles[role])[0]
    device, places = crew.lab.roles[role].device, crew.engines_at(base)
    if device in {None, "auto", *(place.device for place in places)}:
        return None
    return UserError(
        "CFG037",
        f"roles.{role}.device: {device}, and the engine of {base} runs on {listed(places)}",
        f"write device: {places[0].device}, or add a base with the same model on {device}",
    )


def _seat(crew: Cast, name: str) -> Place:
    """Return the engine in which a role is at home in VRAM: as its node and device say, else in its turn.

    The roles of a base that are at home in VRAM are dealt to its engines in the order of the file.
    """
    role = crew.lab.roles[name]
    base = crew.base_of(role)[0]
    places = crew.engines_at(base)
    fit = [
        place
        for place in places
        if role.node in {None, place.node} and role.device in {None, "auto", place.device}
    ]
    beside = [
        other
        for other, one in crew.lab.roles.items()
        if one.location is Tier.VRAM and crew.base_of(one)[0] == base
    ]
    turn = beside.index(name) if name in beside else 0
    return (fit or places)[turn % len(fit or places)]


def role_spec(crew: Cast, version: Version) -> Spec:
    """Return the Spec of a role's adapter version; an engine of its base has told its place."""
    role = crew.lab.roles[version.role]
    base = crew.base_of(role)[0]
    node = crew.node_of(role.node or crew.fleet[base].node)
    places = {Tier.VRAM: _seat(crew, version.role), Tier.NETWORK: NETWORK}
    to = role.unload.to
    return Spec(
        item=Item(version.item),
        name=version.role,
        kind="adapter",
        nbytes=version.nbytes,
        home=places.get(role.location) or Place(node, role.location),
        serves_at=crew.engines_at(base),
        base=base,
        digest=version.image_digest,
        durable=NETWORK if version.network else durable(version.node),
        landing=durable(version.node) if version.network else None,
        idle_s=role.unload.idle_s,
        unload_to=None if to is None else places.get(to) or Place(node, to),
        pinned=role.pin,
        after=role.warm.after,
        at_start=role.warm.at_start,
    )


def seats(orders: Orders) -> dict[str, str]:
    """Return the node that each role's actor was ordered to: where its adapter was, in RAM or on SSD.

    What was ordered and not done when a coordinator was killed is so done by the next one.
    """
    ordered = {
        item.partition("@")[0]: home.node
        for item, home in orders.homes().items()
        if "@" in item and home.tier in {Tier.RAM, Tier.SSD}
    }
    return orders.seats() | ordered


def shard_item(name: str) -> Item:
    """Return the item of shard `name`."""
    return Item(f"{name}#shard")


def shard_spec(crew: Cast, name: str, report: ShardSizes) -> Spec:
    """Return the Spec of a shard whose log is written: `report` says how large its index is."""
    shard = crew.lab.rag[name]
    node = crew.node_of(shard.node)
    engine = crew.engine_places.get(crew.engine_beside(name))
    places = {Tier.VRAM: engine} if engine else {}
    if shard.location is Tier.VRAM and engine is None:
        raise UserError(
            "TRC061",
            f"rag.{name}.location: VRAM is memory of an engine, and none runs on {node}",
            "give a base to that node, or choose RAM or SSD",
        )
    to = shard.unload.to
    return Spec(
        item=shard_item(name),
        name=name,
        kind="shard",
        nbytes=report.nbytes,
        home=places.get(shard.location) or Place(node, shard.location),
        serves_at=(engine,) if engine else (),
        base="",
        digest=report.digest,
        durable=log_of(node),
        idle_s=shard.unload.idle_s,
        unload_to=None if to is None else places.get(to) or Place(node, to),
        pinned=shard.pin,
        after=shard.warm.after,
        at_start=shard.warm.at_start,
    )


def place_for(crew: Cast, state: State, item: Item, tier_name: str | None, node: str | None) -> Place:
    """Return the place that a person means by a tier and a node; what is left out is as at the item's home.

    VRAM means the item's own engine: of several the one at that node, else its home, else where it is. Of
    what rests there or on the network, a node alone means its RAM.
    Raises UserError CFG021 for a tier that does not exist.
    """
    home = state.home(item)
    if tier_name is None:
        tier_name = Tier.SSD if home.tier is Tier.SSD else Tier.RAM
    try:
        tier = Tier.parse(tier_name)
    except ValueError as error:
        raise UserError("CFG021", f"unknown tier {tier_name!r}", "tiers: VRAM, RAM, SSD, network") from error
    serves_at = state.items[item].serves_at
    if tier is Tier.NETWORK:
        return NETWORK
    seats = [place for place in serves_at if node in {None, place.node}]
    if tier is Tier.VRAM and seats:
        return next((place for place in (home, state.goal(item)) if place in seats), seats[0])
    rests = home if home != NETWORK else state.items[item].landing or home
    return Place(crew.node_of(node or rests.node), tier)
