"""What the lab says of itself: `ps`, one item's story, and `describe` with why it is where it is."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import psutil

from actors import changes
from actors.census import Presence, listing
from actors.description import Description
from placement.state import Item
from placement.tale import Told
from placement.tiers import Tier
from placement.units import format_seconds
from placement.why import ORDERED, why

if TYPE_CHECKING:
    from actors.coordinator import Coordinator
    from actors.crew import Crew
    from actors.journal import Line
    from actors.listing import Listing
    from placement.config.schema import Role, Shard
    from placement.why import Why

#: Lines of a story in which causes are looked for, and those that `describe` shows.
READ, SHOWN = 1000, 20
UNFETCHED = "it rests on the network, and nothing of it is here"


async def ps(coordinator: Coordinator) -> Listing:
    """Say where everything is, from reports asked for now."""
    machine, crew = await coordinator.opened()
    others: dict[str, Any] = {}
    beats = coordinator.beats
    await asyncio.gather(
        coordinator.beat(),
        beats.ask({f"embedder:{name}": handle for name, handle in crew.embedders.items()}, others),
        beats.ask({f"role:{name}": handle for name, handle in crew.roles.items()}, others),
    )
    others["coordinator"] = Presence(os.getpid(), psutil.Process().memory_info().rss, machine.state.epoch)
    coordinator.census.others = others
    return listing(crew, coordinator.census, machine, coordinator.journal, time.monotonic())


async def story(coordinator: Coordinator, name: str) -> list[Line]:
    """Return the last lines of a role's, shard's or version's story. Raises UnknownName TRC001."""
    await coordinator.opened()
    lines = coordinator.journal.story(name)
    if not lines:
        find(coordinator, name)
    return lines


async def describe(coordinator: Coordinator, name: str) -> Description:
    """Return all of a role, shard or version, from reports asked for now. Raises UnknownName TRC001."""
    _, crew = await coordinator.opened()
    plain, _ = find(coordinator, name)
    thing = (await coordinator.ps()).thing(plain)
    plain, item = find(coordinator, name)  # it may have come or gone meanwhile
    events = coordinator.journal.story(plain, last=READ)
    role = crew.lab.roles.get(plain)
    readers = tuple(
        other.name for other in crew.lab.roles.values() if any(use.shard == plain for use in other.rag)
    )
    return Description(
        thing=thing,
        item=item or "",
        activated_by=role.activated_by if role is not None else readers,
        actors=tuple(f"{actor} on {crew.where(actor)}" for actor in _actors(crew, plain)),
        rules=tuple(_rules(role or crew.lab.rag[plain])),
        events=tuple(events[-SHOWN:]),
        why=None if item is None else _why(coordinator, plain, item, events),
        note="" if item is not None else thing.problem or UNFETCHED,
    )


def find(coordinator: Coordinator, name: str) -> tuple[str, Item | None]:
    """Return the role or shard of a name, and its item, if it has one. Raises UnknownName TRC001.

    Of a role that is updated, it is the version that serves and not the one that is tried.
    """
    machine, crew = coordinator.brain()
    known = machine.state.items.get(Item(name))
    plain = name if known is None else known.name
    if plain not in crew.lab.roles and plain not in crew.lab.rag:
        raise changes.unknown(coordinator, name)
    if known is not None:
        return plain, Item(name)
    serving = next((Item(one.item) for one in coordinator.journal.versions() if one.role == plain), None)
    here = serving in machine.state.items and serving not in machine.state.retired
    return plain, serving if here else machine.state.versions.get(plain)


def _why(coordinator: Coordinator, name: str, item: Item, events: list[Line]) -> Why:
    machine, _ = coordinator.brain()
    now, now_s = time.time(), time.monotonic()
    told = [Told(now - line.at, line.text) for line in events if line.item in (item, name)]
    return why(machine.state, item, now_s, machine.limits, told, _home_by(coordinator, name, item))


def _home_by(coordinator: Coordinator, name: str, item: Item) -> str:
    """Return who chose the home of an item: its entry in the file, what was said since, or an order."""
    machine, crew = coordinator.brain()
    home = machine.state.home(item)
    if coordinator.journal.homes().get(item) == home and not _is_written(crew, name, home.tier, home.node):
        return ORDERED
    return "what was said since" if any(edit.role == name for edit in coordinator.edits) else "the file"


def _is_written(crew: Crew, name: str, tier: Tier, node: str) -> bool:
    """Tell whether the entry of a role or shard says this tier, and this node where it matters."""
    role = crew.lab.roles.get(name)
    entry: Role | Shard = crew.lab.rag[name] if role is None else role
    said = entry.node or (None if role is None else crew.fleet[crew.base_of(role)[0]].node)
    return tier is entry.location and (tier not in {Tier.RAM, Tier.SSD} or crew.node_of(said) == node)


def _actors(crew: Crew, name: str) -> tuple[str, ...]:
    """Return the actors that answer for a role or shard."""
    role = crew.lab.roles.get(name)
    if role is None:
        return (f"shard:{name}",)
    return f"role:{name}", *(f"engine:{engine}" for engine in crew.fleet_of(crew.base_of(role)[0]))


def _rules(entry: Role | Shard) -> list[str]:
    """Return what an entry says of warming, unloading and pins."""
    warm, unload = entry.warm, entry.unload
    told = {
        "pinned": entry.pin,
        f"warmed after {', '.join(warm.after)}": warm.after,
        "warmed at start": warm.at_start,
        f"warmed at {warm.at!r}": warm.at,
        f"unloads after {format_seconds(unload.idle_s)} idle": True,
        f"to {unload.to}": unload.to,
        f"unloads at {unload.at!r}": unload.at,
    }
    return [rule for rule, said in told.items() if said]
