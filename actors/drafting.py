"""The draft of a lab: each machine, base, role and shard of its file with sizes, and what cannot be."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from actors.intake import item_of
from actors.journal import Version
from actors.lm.fetch import shown
from actors.lm.prepare import prepare
from actors.lm.source import how_kept
from actors.muster import device_fault, durable, joined, role_spec, shard_spec
from actors.survey import Foreseen, Index, foreseen_base, foreseen_index, this_machine
from placement.errors import TierceError, UserError
from placement.preview.plan import Build, Trouble
from placement.state import Item, Place, Room, Spec
from placement.tiers import Tier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from actors.cast import Cast
    from actors.muster import EngineSizes, NodeSizes, ShardSizes
    from actors.said import Orders
    from placement.config.engines import Engine
    from placement.config.schema import Base


class Surveyor(Protocol):
    """Says how large things are. What it raises is why something cannot be."""

    async def node(self, node: str) -> NodeSizes:
        """Return what a machine has. Raises TRC041 for one that is not there."""

    async def base(self, name: str) -> EngineSizes:
        """Return what an engine takes, or will take."""

    async def adapter(self, role: str) -> tuple[Version | None, bool]:
        """Return the version of a role, and whether it is still to be made; None if nobody can know yet."""

    async def index(self, shard: str) -> tuple[ShardSizes, bool]:
        """Return the size of a shard's index, and whether it is still to be built."""


@dataclass(slots=True)
class Draft:
    """What a file asks for. `troubles` forbid the whole, `absent` are of what would not serve."""

    cast: Cast
    specs: list[Spec] = field(default_factory=list)
    rooms: dict[str, Mapping[Place, Room]] = field(default_factory=dict)
    kv: dict[Place, int] = field(default_factory=dict)
    #: what a role would serve, "" for one that is fetched when it is wanted
    items: dict[str, str] = field(default_factory=dict)
    builds: list[Build] = field(default_factory=list)
    absent: list[Trouble] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)


async def draft(cast: Cast, orders: Orders, surveyor: Surveyor) -> Draft:
    """Return what the file of `cast` asks for; its engines' places are put down in `cast`."""
    made = Draft(cast)
    machines = await _machines(made, surveyor)
    engines = await _engines(made, surveyor, machines)
    for node, machine in machines.items():
        try:
            made.rooms[node] = joined(cast, node, machine, engines).rooms
        except TierceError as error:
            made.troubles.append(_trouble(f"node {node}", error))
    for engine, sizes in engines.items():
        place = cast.engine_places[engine]
        made.kv[place] = made.kv.get(place, 0) + sizes.kv_nbytes
    for name in cast.lab.roles:
        try:
            await _role(made, name, orders, surveyor)
        except TierceError as error:
            made.absent.append(_trouble(f"role {name}", error))
    for name, shard in cast.lab.rag.items():
        if shard.location is not Tier.NETWORK:
            try:
                await _shard(made, name, orders, surveyor)
            except TierceError as error:
                made.absent.append(_trouble(f"shard {name}", error))
    return made


def _trouble(what: str, error: TierceError) -> Trouble:
    return Trouble(what, error.code, error.message, error.hint)


async def _machines(made: Draft, surveyor: Surveyor) -> dict[str, NodeSizes]:
    machines: dict[str, NodeSizes] = {}
    for node in made.cast.lab.nodes:
        try:
            machines[node] = await surveyor.node(node)
        except TierceError as error:
            made.absent.append(_trouble(f"node {node}", error))
    made.cast.here = tuple(machines)
    return machines


async def _engines(
    made: Draft, surveyor: Surveyor, machines: Mapping[str, NodeSizes]
) -> dict[str, EngineSizes]:
    engines: dict[str, EngineSizes] = {}
    for name, engine in made.cast.fleet.items():
        node = made.cast.node_of(engine.node)
        if node not in machines:
            continue
        try:
            engines[name] = await surveyor.base(name)
        except TierceError as error:
            made.troubles.append(_trouble(f"base {name}", error))
            continue
        made.cast.engine_places[name] = Place(node, Tier.VRAM, engines[name].device)
    return engines


async def _role(made: Draft, name: str, orders: Orders, surveyor: Surveyor) -> None:
    cast = made.cast
    role, node = cast.lab.roles[name], cast.role_node(name)
    base = cast.base_of(role)[0]
    if node not in cast.here or not cast.engines_at(base):
        lacking = node if node not in cast.here else f"the engine of {base}"
        raise UserError("TRC041", f"{lacking} is not there", "see what is told of it")
    if (fault := device_fault(cast, name)) is not None:
        raise fault
    version, new = await surveyor.adapter(name)
    made.items[name] = version.item if version else ""
    if version is None:
        if role.location is not Tier.NETWORK:
            source = shown(cast.origin(name).lora_path)
            made.builds.append(Build(Item(name), source, durable(node), 0, exact=False))
        return
    made.specs.append(orders.applied(role_spec(cast, version), cast.here))
    if new:
        built = Build(Item(version.item), shown(version.source), durable(version.node), version.nbytes)
        made.builds.append(built)


async def _shard(made: Draft, name: str, orders: Orders, surveyor: Surveyor) -> None:
    cast = made.cast
    shard, node = cast.lab.rag[name], cast.shard_node(name)
    if node not in cast.here:
        raise UserError("TRC041", f"{node} is not there", "see what is told of it")
    sizes, new = await surveyor.index(name)
    spec = orders.applied(shard_spec(cast, name, sizes), cast.here)
    made.specs.append(spec)
    if new:
        below = Tier.SSD if spec.home.tier is Tier.VRAM else spec.home.tier
        source = shard.source or shard.path or ""
        made.builds.append(Build(spec.item, source, Place(node, below), sizes.nbytes, exact=False))


def wanted_of(base: Base, device: str) -> Foreseen:
    """Return what is known of an engine before its base is looked at."""
    return Foreseen(device, base.kv_cache, base.max_rank, base.slot_dtype)


def device_of(engine: Engine, gpus: int) -> str:
    """Return the device that an engine will take on a machine with so many GPUs."""
    if engine.device == "cuda" or (engine.device == "auto" and gpus):
        return "cuda:0"
    return "cpu" if engine.device == "auto" else engine.device


def _gpus() -> int:
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


class Here:
    """Surveys what this machine has of a lab that does not run."""

    def __init__(self, cast: Cast, known: Mapping[str, Version]) -> None:
        self._cast = cast
        self._known = known

    async def node(self, node: str) -> NodeSizes:
        """Return what this machine has, as if each node of the file were like it."""
        return this_machine(self._cast.ssd(node))

    async def base(self, name: str) -> EngineSizes:
        """Return what the engine will take by the files of its base."""
        engine = self._cast.fleet[name]
        base = engine.base
        wants = wanted_of(base, device_of(engine, await asyncio.to_thread(_gpus)))
        return await asyncio.to_thread(foreseen_base, self._cast.path(base.model), wants)

    async def adapter(self, role: str) -> tuple[Version | None, bool]:
        """Read and check a role's adapter; one at an address is known if it was fetched once."""
        origin, node = self._cast.origin(role), self._cast.role_node(role)
        network = self._cast.lab.roles[role].location is Tier.NETWORK
        if how_kept(origin.lora_path) == "fetched":
            known = self._known.get(role)
            return (known if network and known and known.source == origin.lora_path else None), False
        found = await asyncio.to_thread(
            prepare, origin.lora_path, origin.base_path, origin.max_rank, None, origin.slot_dtype
        )
        item, digests = item_of(origin, found), (found.digest, found.image_digest)
        kept = self._cast.ssd(node) / "adapters" / f"{item}.json"
        version = version_of(role, item, digests, found.nbytes, node, origin.lora_path)
        return version, not await asyncio.to_thread(kept.exists)

    async def index(self, shard: str) -> tuple[ShardSizes, bool]:
        """Return how large a shard's index will be by its documents."""
        return Index(await asyncio.to_thread(foreseen_index, source_of(self._cast, shard))), True


def version_of(
    role: str, item: str, digests: tuple[str, str], nbytes: int, node: str, source: str
) -> Version:
    """Return the version that a role would have once its adapter is taken in.

    `digests` are those of its source and of its image.
    """
    return Version(item, role, *digests, nbytes, node, source, "", network=False)


def source_of(cast: Cast, shard: str) -> str:
    """Return where the documents of a shard lie. Raises UserError RAG010 for one that has only an index."""
    source = cast.lab.rag[shard].source
    if source is None:
        raise UserError("RAG010", f"shard {shard} has no source: its size is known once it is open")
    return cast.path(source)
