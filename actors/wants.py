"""Wants: a request for an adapter in its engine, settled exactly once by the Machine's Grant or Refuse."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from typing import TYPE_CHECKING, Any

from actors.answer import Activation
from actors.ask import named
from actors.census import seated
from actors.errors import UnknownName
from actors.versions import Versions
from placement.errors import TierceError, WorldError
from placement.messages import Beat, Tick, Wanted, WantEnded
from placement.state import Item
from placement.tiers import Tier

if TYPE_CHECKING:
    from actors.coordinator import Coordinator
    from placement.machine import Machine
    from placement.state import Place

#: The Machine refuses a want at its deadline, with the reason; this long its word may take.
LATE_S = 5.0
ASK_AGAIN_S = 0.25
#: While a want waits for a seat, its engine is asked so often who uses them.
LISTEN_S = 0.02
#: How long a want waits for a durable copy that is just being built again.
MENDED_S = 10.0


class Wants:
    """Open wants by id. To be used on one event loop."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._futures: dict[str, asyncio.Future[Place]] = {}
        self._listened_s: dict[Place, float] = {}

    def listens(self, place: Place) -> bool:
        """Tell whether it is time to ask who uses the seats of a place, for all who wait there."""
        now_s = time.monotonic()
        due = now_s - self._listened_s.get(place, -math.inf) >= LISTEN_S
        if due:
            self._listened_s[place] = now_s
        return due

    def open(self, epoch: int) -> tuple[str, asyncio.Future[Place]]:
        """Return a new want's id and the future of the place where it is granted."""
        want = f"{epoch}.w{next(self._numbers)}"
        self._futures[want] = asyncio.get_running_loop().create_future()
        return want, self._futures[want]

    def grant(self, want: str, place: Place) -> None:
        """End a want well; nothing happens if it has ended."""
        if (future := self._futures.pop(want, None)) and not future.done():
            future.set_result(place)

    def refuse(self, want: str, error: TierceError) -> None:
        """End a want with the error that its caller gets; nothing happens if it has ended."""
        if (future := self._futures.pop(want, None)) and not future.done():
            future.set_exception(error)

    def forget(self, want: str) -> None:
        """Drop a want whose caller gave up."""
        self._futures.pop(want, None)


async def bring(coordinator: Coordinator, item: Item, caller: str, within_s: float) -> Activation:
    """Bring an adapter up to its engine; return what it cost (nothing, if it was there).

    Raises UnknownName for an item that is not registered, and the Machine's refusal as a typed error.
    """
    machine, _ = await coordinator.opened()
    if item not in machine.state.items:
        raise UnknownName("TRC001", f"{item} is not registered", "see `tierce ps`")
    began = time.monotonic()
    await coordinator.until(lambda: item not in machine.state.gone, min(within_s, MENDED_S))
    if item not in machine.state.items:
        raise UnknownName("TRC001", f"{item} was removed meanwhile", "see `tierce ps`")
    if machine.state.ready(item, machine.state.goal(item)):
        await _hear(coordinator, item, within_s)
    want, future = coordinator.wants.open(machine.state.epoch)
    coordinator.journal.tell(item, f"asked for by {named(caller)} (want {want})", time.time())
    try:
        coordinator.take(Wanted(want, item, began + within_s, named(caller)))
        await _settled(coordinator, machine, item, future, within_s + LATE_S)
    except TimeoutError as error:
        _give_up(coordinator, want)
        raise WorldError(
            "TRC012", f"{item} did not come up in {within_s:.0f} s", f"see `tierce story {item}`"
        ) from error
    except BaseException:
        _give_up(coordinator, want)
        raise
    total_s = time.monotonic() - began
    done_s, cost = coordinator.effects.activated.get(item, (began - 1, None))
    if cost is None or done_s < began:
        return Activation("VRAM", 0, total_s, 0.0)
    return Activation(cost.source, cost.nbytes, total_s, cost.copy_s)


async def _settled(
    coordinator: Coordinator, machine: Machine, item: Item, future: asyncio.Future[Place], within_s: float
) -> None:
    """Wait for the end of a want; have the Machine hear of seats that become free, not at the next beat.

    Once the want's patience is over it looks again. An engine that is slow to say who uses its seats holds
    nobody up. Raises TimeoutError, and the Machine's refusal.
    """
    began_s, looked = time.monotonic(), False
    listening = asyncio.create_task(_listen(coordinator, machine, item))
    try:
        while not future.done():
            waited_s = time.monotonic() - began_s
            if waited_s >= within_s:
                raise TimeoutError
            await asyncio.wait([future], timeout=min(LISTEN_S, within_s - waited_s))
            if future.done() or coordinator.machine is not machine:
                continue
            if listening.done():
                listening.result()
                listening = asyncio.create_task(_listen(coordinator, machine, item))
            if not looked and waited_s >= machine.limits.drain_after_s:
                looked = True
                coordinator.take(Tick())
    finally:
        listening.cancel()
    future.result()


async def _listen(coordinator: Coordinator, machine: Machine, item: Item) -> None:
    """Have the Machine hear who uses the seats where an item is wanted, if none is free for it."""
    state, (_, crew) = machine.state, coordinator.brain()
    if item not in state.items:
        return
    goal, base = state.goal(item), state.items[item].base
    free = goal in state.rooms and state.seated(goal, base) < state.rooms[goal].seats.get(base, 0)
    if free or (item, goal) in state.replicas or not coordinator.wants.listens(goal):
        return
    engines = {
        name: crew.engines[name]
        for name, at in crew.engine_places.items()
        if at == goal and name in crew.engines
    }
    asked_s, reports = time.monotonic(), dict[str, Any]()
    await coordinator.beats.ask(engines, reports, full=False)
    if coordinator.machine is not machine or None in reports.values():
        return
    shown = [seated(machine.state, other, goal, report) for other, report in reports.items()]
    held = {item: seen for each in shown for item, seen in each.items()}
    gauges = {place: told for place, told in machine.state.gauges.items() if place == goal}
    coordinator.take(Beat(goal.node, asked_s, {goal: held}, gauges))


def pending(coordinator: Coordinator, role: str) -> bool:
    """Tell whether a role is at home on the network and was never fetched."""
    _, crew = coordinator.brain()
    config = crew.lab.roles.get(role)
    if config is None or config.location is not Tier.NETWORK:
        return False
    return all(version.role != role for version in coordinator.journal.versions())


async def fetch(coordinator: Coordinator, role: str, cause: str, within_s: float) -> Item:
    """Return the item of a role that is at home on the network: fetched now, if nobody wanted it before.

    All who want it wait for one fetch, which goes on for the next one to ask if they give up. Raises
    UnknownName for a role that the lab lacks, and what went wrong as a typed error.
    """
    _, crew = await coordinator.opened()
    if role not in crew.lab.roles:
        raise UnknownName("TRC001", f"the lab has no role {role!r}", "see `tierce ps`")
    known = next((one for one in coordinator.journal.versions() if one.role == role), None)
    if known is not None:
        return Item(known.item)
    if role not in coordinator.fetches:
        coordinator.journal.tell(role, f"asked for by {cause}: fetched for the first time", time.time())
        task = coordinator.fetches[role] = asyncio.create_task(_fetch(coordinator, role))
        task.add_done_callback(_looked_at)
    try:
        return await asyncio.wait_for(asyncio.shield(coordinator.fetches[role]), within_s)
    except TimeoutError as error:
        raise WorldError(
            "TRC012", f"{role} was not fetched in {within_s:.0f} s", "the fetch goes on; ask again"
        ) from error


def _looked_at(task: asyncio.Task[Item]) -> None:
    """Look at how a fetch ended: all who waited for it may have given up, and its story tells it."""
    if not task.cancelled():
        task.exception()


async def _fetch(coordinator: Coordinator, role: str) -> Item:
    versions = Versions(coordinator, lambda _: None)
    try:
        version = await versions.prepare(role)
        _, crew = coordinator.brain()
        if role not in crew.lab.roles or crew.origin(role).lora_path != version.source:
            coordinator.journal.forget_version(role)
            raise WorldError("TRC025", f"{role} was changed while it was fetched", "ask again")
        versions.register(version, fetched=True)
        return Item(version.item)
    except TierceError as error:
        coordinator.journal.tell(role, f"not fetched: {error}", time.time())
        raise
    finally:
        coordinator.fetches.pop(role, None)


def _give_up(coordinator: Coordinator, want: str) -> None:
    coordinator.wants.forget(want)
    if coordinator.machine is not None:
        coordinator.take(WantEnded(want))


async def _hear(coordinator: Coordinator, item: Item, within_s: float) -> None:
    """Beat until the engine that should have an item has said what it holds: one just killed is silent.

    Of several engines, one that has died holds nothing, and is not waited for.
    """
    machine, crew = coordinator.brain()
    goal, base = machine.state.goal(item), machine.state.items[item].base
    engine, give_up = crew.engine_in(base, goal), time.monotonic() + within_s
    await coordinator.beat()
    while coordinator.census.engines.get(engine) is None and time.monotonic() < give_up:
        if not machine.state.ready(item, goal):
            return
        await asyncio.sleep(ASK_AGAIN_S)
        await coordinator.beat()
