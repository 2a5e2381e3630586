"""Actors that leave a running lab: each ends what it does, and its name is free again."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import ray

from actors import incarnations
from actors.errors import reach
from actors.names import runs
from actors.progress import Progress
from placement.config.engines import base_of_engine
from placement.errors import TierceError, WorldError
from placement.messages import Removed
from placement.tiers import Tier

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from actors.cast import Cast
    from actors.coordinator import Coordinator
    from actors.progress import Say
    from placement.state import Item

CLOSE_S = 30.0
POLL_S = 0.05
#: Kinds of actors that come and go while a lab runs; a store stays as long as its node's lab.
LEAVING = ("engine", "embedder", "shard", "role")


def needed(cast: Cast) -> set[str]:
    """Return the names of all actors that a lab's file needs, wherever they were hired.

    The shard of a server was hired on what was the first node then, with the embedder of that node.
    """
    remote = any(shard.location is Tier.NETWORK and shard.api != "http" for shard in cast.lab.rag.values())
    embedders = {f"embedder:{node}" for node in cast.lab.nodes} if remote else set[str]()
    return cast.members().keys() | embedders


async def end(coordinator: Coordinator, actor: str, *, for_good: bool) -> None:
    """End an engine, embedder or shard, if it runs, and forget its last report.

    A shard writes its files down first; one that leaves `for_good` removes its index. Raises WorldError
    TRC043 for one that does not end.
    """
    crew, census = coordinator.brain()[1], coordinator.census
    kind, _, name = actor.partition(":")
    handles = {"engine": crew.engines, "embedder": crew.embedders, "shard": crew.shards}[kind]
    handles.pop(name, None)
    if runs(crew.lab.name, actor):
        handle: Any = ray.get_actor(actor, namespace=crew.lab.name)
        try:
            if kind == "shard":
                ending = handle.withdraw if for_good else handle.close
                await reach(ending.remote(), actor, CLOSE_S)
        except TierceError as error:
            coordinator.journal.tell(name, f"it did not close: {error}", time.time())
        finally:
            ray.kill(handle)
    give_up = time.monotonic() + CLOSE_S
    while runs(crew.lab.name, actor):  # or the next one of that name would be this one
        if time.monotonic() > give_up:
            raise WorldError("TRC043", f"{actor} does not end", "apply the file again")
        await asyncio.sleep(POLL_S)
    await coordinator.beat()  # or one that runs now would tell of it once more
    if kind == "engine":
        census.engines.pop(name, None)
        census.ended.discard(name)
        crew.engine_places.pop(name, None)
        base = base_of_engine(name)
        if base not in crew.lab.bases:
            crew.anatomies.pop(base, None)
            crew.engine_rooms.pop(base, None)
    elif kind == "shard":
        census.shards.pop(name, None)


async def let_go(coordinator: Coordinator, role: str, ending: Coroutine[Any, Any, None] | None) -> None:
    """Remove the versions that a role had before, once the `ending` of who served them is over.

    Those are meant that are replaced already; one that the role has again by then stays.
    """
    machine = coordinator.machine
    replaced = _replaced(coordinator, role)
    if ending is not None:
        await ending
    async with coordinator.changing:
        if machine is None or coordinator.machine is not machine:  # taken down meanwhile
            return
        for item in replaced & _replaced(coordinator, role):
            coordinator.take(Removed(item))


def _replaced(coordinator: Coordinator, role: str) -> set[Item]:
    """Return the versions of a role that are registered and are not the one that it has."""
    if coordinator.machine is None:
        return set()
    state, serving = coordinator.machine.state, {one.item for one in coordinator.journal.versions()}
    known = {item for item, spec in state.items.items() if (spec.kind, spec.name) == ("adapter", role)}
    return known - state.retired - serving


async def end_strangers(coordinator: Coordinator, say: Say) -> None:
    """End the engines, embedders, shards and roles that the lab's file does not have, or no longer."""
    crew = coordinator.brain()[1]
    named = ray.util.list_named_actors(all_namespaces=True)
    names = [one["name"] for one in named if one["namespace"] == crew.lab.name]
    running = {name.partition("#")[0] if name.startswith("role:") else name for name in names}
    for actor in sorted(running - needed(crew)):
        kind, _, name = actor.partition(":")
        if kind not in LEAVING:
            continue
        if kind == "role":
            await incarnations.dismiss(crew, name)
        else:
            await end(coordinator, actor, for_good=True)
        say(Progress(f"{actor} has ended"))
