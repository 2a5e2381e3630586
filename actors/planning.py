"""The plan of a running lab: what its coordinator would do for a file; and where the world has drifted."""

from __future__ import annotations

import asyncio
import time
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actors.drafting import Draft, device_of, draft, source_of, version_of, wanted_of
from actors.errors import reach
from actors.leaving import needed
from actors.muster import limits, role_spec, seats, shard_spec
from actors.nodes import gpus
from actors.progress import silent
from actors.said import Orders, Standing, standing_of, summary
from actors.survey import Index, Machine
from actors.versions import Versions
from placement.errors import WorldError
from placement.preview.drift import Drift, astray, said_since
from placement.preview.entries import Change, entry_changes
from placement.preview.foresight import Foresight, foresee
from placement.preview.plan import Act, Plan, Trouble
from placement.tiers import Tier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actors.coordinator import Coordinator
    from actors.crew import Crew
    from actors.journal import Version
    from actors.muster import EngineSizes, NodeSizes, ShardSizes
    from actors.spec import LabSpec
    from placement.config import Lab
    from placement.state import Item, Place

LOOK_S = 600.0
#: What to do where something needs a machine that the same edit adds.
FIRST = "apply the file with the new machine alone first, or write its ram and ssd.budget"
#: Fields of a shard that its actor is made with: another value needs another actor.
MADE_WITH = ("source", "url", "collection", "api", "api_key", "map", "device", "tenant_key")
#: Fields that say where an item rests.
PLACED = ("location", "node", "device", "pin")
#: Fields that nothing of a running lab follows, by the kind of their entry; () are all of them.
FIXED: dict[str, tuple[str, ...]] = {"base": (), "node": ("ssd",), "shard": ("node", "path")}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A plan, and what it is made from: the draft of the file, and what stands of what was said since."""

    plan: Plan
    draft: Draft
    stands: Standing


async def draw(coordinator: Coordinator, spec: LabSpec, *, forget: bool, advise: bool = True) -> Drawn:
    """Return what would be done to make the running lab as `spec` says. Nothing is changed.

    With `forget` only the file counts, and not what was said and ordered since. What does not fit is searched
    for, and what would repair it, if the plan is to `advise` somebody.
    """
    machine, crew = await coordinator.opened()
    await coordinator.beat()
    stands = standing_of(spec, coordinator.journal, forget=forget)
    orders = Orders(coordinator.journal, stands.disordered)
    ghost = copy(crew)
    ghost.follow(stands.spec)
    ghost.look()
    ghost.seats, ghost.engine_places = seats(orders), dict(crew.engine_places)
    changes = entry_changes(_spoken(crew.spec), _spoken(stands.spec))
    made = await draft(ghost, orders, Asked(coordinator, ghost, changes))
    made.troubles += [*_immovable(changes), *_unmeasured(coordinator, made)]
    changed = {f"{one.kind} {one.name}" for one in changes if one.sign == "~"}
    made.troubles += [one for one in made.absent if one.what in changed]
    made.absent = [one for one in made.absent if one.what not in changed]
    made.absent += stands.troubles()
    thinking = machine.fork()
    thinking.limits = limits(stands.spec.lab.policy, machine.limits.op_s)
    asked = (thinking, made.specs, made.rooms, time.monotonic(), made.kv)
    foresight = Foresight() if made.troubles else await asyncio.to_thread(foresee, *asked, advise=advise)
    made.troubles += [Trouble("", one.code, one.message, one.hint) for one in foresight.refused]
    plan = Plan(
        lab=spec.lab.name,
        file=spec.file,
        fingerprint=spec.fingerprint,
        running=True,
        forget=forget,
        unfinished=coordinator.journal.fact("up") != coordinator.spec.fingerprint,
        changes=changes,
        acts=tuple(_acts(coordinator, ghost, changes, made)),
        builds=tuple(made.builds),
        foresight=foresight,
        said=(*_said(stands, orders, _homes(coordinator, spec, set())), *await outdated(coordinator)),
        absent=tuple(made.absent),
        troubles=tuple(made.troubles),
    )
    return Drawn(plan, made, stands)


def _said(stands: Standing, orders: Orders, homes: dict[Item, tuple[Place, bool]]) -> Iterator[str]:
    """Yield what stands beside the file: words since, and orders that gave another home or pin."""
    for edit in stands.edits:
        yield f"role {edit.role}: {summary(edit)}, as was said since the file"
    for item, (home, pinned) in homes.items():
        if orders.homes().get(item, home) != home:
            yield f"{item}: home {orders.homes()[item]}, as was ordered since the file"
        if orders.pins().get(item, pinned) != pinned:
            yield f"{item}: {'no longer pinned' if pinned else 'pinned'}, as was ordered since the file"


async def outdated(coordinator: Coordinator) -> list[str]:
    """Return of which roles the directory holds another version than the one that serves."""
    serving = _serving(coordinator)
    return [
        f"role {role}: version {serving[role]}, and its directory holds {digest[:12]} now "
        f"(`tierce update {role}` takes it)"
        for role, digest in (await Versions(coordinator, silent).outdated()).items()
    ]


def _serving(coordinator: Coordinator) -> dict[str, str]:
    """Return the version of each role that has one: 12 hex digits."""
    return {one.role: one.item.partition("@")[2] for one in coordinator.journal.versions()}


def _spoken(spec: LabSpec) -> Lab:
    """Return a lab whose roles have their personas as read from their files."""
    roles = {
        name: role.model_copy(update={"persona": spec.personas.get(name, role.persona)})
        for name, role in spec.lab.roles.items()
    }
    return spec.lab.model_copy(update={"roles": roles})


def _immovable(changes: tuple[Change, ...]) -> Iterator[Trouble]:
    """Yield what cannot be changed while the lab runs."""
    hint = "run `tierce down`, then `tierce up`: what was said and ordered stays"
    for change in changes:
        what = f"{change.kind} {change.name}"
        if change.sign == "-" and change.kind == "node":
            yield Trouble(what, "TRC048", "a machine cannot leave a running lab", hint)
        elif change.sign == "~" and change.kind in FIXED:
            fixed = FIXED[change.kind]
            named = [one.name for one in change.fields if not fixed or one.name.partition(".")[0] in fixed]
            if named:
                yield Trouble(what, "TRC048", f"{', '.join(named)} cannot change while it runs", hint)


def _unmeasured(coordinator: Coordinator, made: Draft) -> Iterator[Trouble]:
    """Yield who is to move to a machine whose room nobody knows yet: its store has not started.

    What is new there is taken in once the store has; what moves is planned with the room that there is.
    """
    state = coordinator.brain()[0].state
    for spec in made.specs:
        node = spec.home.node
        known = spec.item in state.items and spec.item not in state.retired
        if not known or node in state.nodes or node not in made.rooms:
            continue
        config = made.cast.lab.nodes[node]
        if config.ram is None or config.ssd is None or config.ssd.budget is None:
            what = f"{'role' if spec.kind == 'adapter' else 'shard'} {spec.name}"
            yield Trouble(what, "TRC046", f"how much room {node} has is known once its store runs", FIRST)


def _acts(coordinator: Coordinator, ghost: Crew, changes: tuple[Change, ...], made: Draft) -> Iterator[Act]:
    """Yield which actors start, stop and begin anew."""
    crew = coordinator.brain()[1]
    serving = {version.role: version.item for version in coordinator.journal.versions()}
    failed = {failure.role for failure in coordinator.journal.failures()}
    wanted, stays, running = ghost.members(), needed(ghost), crew.everyone()
    anew = {f"shard:{one.name}": one for one in changes if one.kind == "shard" and remade(one)}
    for actor, node in wanted.items():
        kind, _, name = actor.partition(":")
        if actor not in running:
            if node in ghost.here:
                yield Act("+", actor, node)
        elif actor in anew:
            yield Act("~", actor, node, ", ".join(one.name for one in anew[actor].fields))
        elif kind == "role" and name not in failed and name in made.items:
            was = crew.role_spec(name, serving.get(name, ""), None)
            now = ghost.role_spec(name, made.items[name], None)
            if was.mark != now.mark:
                yield Act("~", actor, node, _changed_in(changes, name))
    for actor in running:
        if actor not in stays:
            kind, _, name = actor.partition(":")
            seat = crew.engine_places.get(name) if kind == "engine" else None
            yield Act("-", actor, seat.node if seat else crew.where(actor))


def _changed_in(changes: tuple[Change, ...], role: str) -> str:
    """Return what is new about a role: its fields, or its adapter where they stay the same."""
    fields = [field.name for one in changes if (one.kind, one.name) == ("role", role) for field in one.fields]
    return ", ".join(fields) or "its adapter"


def remade(change: Change) -> bool:
    """Tell whether a shard that changed needs another actor: another source or server, to or from one."""
    places = [field for field in change.fields if field.name == "location"]
    far = any("network" in (field.before, field.after) for field in places)
    return change.sign == "~" and (far or change.touches(*MADE_WITH))


async def drift(coordinator: Coordinator, spec: LabSpec) -> tuple[Drift, ...]:
    """Return where the running lab is other than a file: what was said since, what is not at home."""
    machine, crew = await coordinator.opened()
    await coordinator.beat()
    changes = entry_changes(_spoken(spec), _spoken(crew.spec))
    found = list(said_since(changes))
    journal = coordinator.journal
    homes = _homes(coordinator, spec, {change.name for change in changes if change.touches(*PLACED)})
    found += astray(machine.state, homes, time.monotonic(), machine.limits)
    serving = _serving(coordinator)
    for role, digest in (await Versions(coordinator, silent).outdated()).items():
        why = f"its directory holds another version now; `tierce update {role}` takes it"
        found.append(Drift("role", role, "adapter", digest[:12], serving[role], why))
    for failure in journal.failures():
        kind = "role" if failure.role in crew.lab.roles else "shard"
        told = f"{failure.message} [{failure.code}]"
        found.append(Drift(kind, failure.role, "", "there", "cannot serve", told))
    for node in crew.missing:
        found.append(Drift("node", node, "", "there", "", "Ray does not see it"))
    for actor in crew.members().keys() - crew.everyone().keys():
        found.append(Drift("actor", actor, "", "there", "", "it does not run"))
    return tuple(found)


def _homes(coordinator: Coordinator, spec: LabSpec, but: set[str]) -> dict[Item, tuple[Place, bool]]:
    """Return home and pin that a file gives to the items of its roles and shards, `but` for some."""
    crew = coordinator.brain()[1]
    ghost = copy(crew)
    ghost.follow(spec)
    specs = []
    for version in coordinator.journal.versions():
        role = spec.lab.roles.get(version.role)
        if role is not None and ghost.engines_at(ghost.base_of(role)[0]):
            specs.append(role_spec(ghost, version))
    for name, report in coordinator.census.shards.items():
        shard = spec.lab.rag.get(name)
        if report is not None and shard is not None and shard.location is not Tier.NETWORK:
            specs.append(shard_spec(ghost, name, report))
    return {one.item: (one.home, one.pinned) for one in specs if one.name not in but}


class Asked:
    """Surveys a running lab: by the last reports of its actors, and what its stores read when asked."""

    def __init__(self, coordinator: Coordinator, ghost: Crew, changes: tuple[Change, ...]) -> None:
        self._census = coordinator.census
        self._crew = coordinator.brain()[1]
        self._ghost = ghost
        self._known = {version.role: version for version in coordinator.journal.versions()}
        self._changed = {(change.kind, change.name): change for change in changes}

    async def node(self, node: str) -> NodeSizes:
        """Return the last report of a machine's store; of a new machine, that nothing is known."""
        if node not in self._ghost.here:
            raise self._ghost.not_seen(node)
        return self._census.stores.get(node) or Machine(0, 0)

    async def base(self, name: str) -> EngineSizes:
        """Return the last report of an engine; of a new base, what a store reads in its files."""
        report = self._census.engines.get(name)
        engine = self._ghost.fleet[name]
        base, node = engine.base, self._ghost.node_of(engine.node)
        if report is not None and ("base", base.name) not in self._changed:
            return report
        wants = wanted_of(base, device_of(engine, gpus(self._ghost.selectors[node])))
        sizes: EngineSizes = await self._store(node, "base_sizes", self._ghost.path(base.model), wants)
        return sizes

    async def adapter(self, role: str) -> tuple[Version | None, bool]:
        """Return the version that a role has; of a new or changed one, what its store reads."""
        known, origin = self._known.get(role), self._ghost.origin(role)
        network = self._ghost.lab.roles[role].location is Tier.NETWORK
        change = self._changed.get(("role", role))
        same = known is not None and known.source == origin.lora_path and known.network == network
        if same and not (change is not None and change.touches("base", "lora_path")):
            return known, False
        if network:
            return None, False
        node = self._ghost.role_node(role)
        found = await self._store(node, "look_at", origin)
        if found is None:
            return None, False
        item, told = found
        source = origin.lora_path
        made = version_of(role, item, (told.digest, told.image_digest), told.nbytes, node, source)
        stored = self._census.stores.get(node)
        return made, stored is None or item not in stored.ssd

    async def index(self, shard: str) -> tuple[ShardSizes, bool]:
        """Return the last report of a shard; of a new one, what a store reads in its documents."""
        report = self._census.shards.get(shard)
        change = self._changed.get(("shard", shard))
        if report is not None and not (change is not None and (change.sign == "+" or remade(change))):
            return report, False
        node = self._ghost.shard_node(shard)
        return Index(await self._store(node, "index_nbytes", source_of(self._ghost, shard))), True

    async def _store(self, node: str, question: str, *what: object) -> Any:
        """Ask the store of a node. Raises TRC046 for one that is not started yet."""
        if node not in self._crew.stores:
            told = f"the store of {node} has not started: what it has is known then"
            raise WorldError("TRC046", told, "apply the file with the new machine alone first")
        call = getattr(self._crew.stores[node], question).remote(*what)
        return await reach(call, f"store:{node}", LOOK_S)
