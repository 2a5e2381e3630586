"""Raising a lab.

Hire the actors, check every adapter, tell the Machine what there is, and wait until all is at home. Each step
finds what is done already, so a raising that was cut off, a coordinator that was reborn, or a node that comes
late, begins at the top.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from actors import incarnations
from actors.errors import Unreachable, reach
from actors.homecoming import come_home
from actors.leaving import end_strangers, let_go
from actors.muster import engine_place, joined
from actors.progress import Progress
from actors.shelving import Shelving
from actors.versions import Versions, steadily
from placement.errors import TierceError, UserError
from placement.messages import Drop, Removed, describe
from placement.resume import unmet
from placement.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from actors.coordinator import Coordinator
    from actors.engine import Decoding
    from actors.store import Stored

START_S = 180.0


class Raising:
    """One run of `tierce up` inside the coordinator; `say` is told each finished step."""

    def __init__(self, coordinator: Coordinator, say: Callable[[Progress], None]) -> None:
        self.coordinator = coordinator
        self.machine, self.crew = coordinator.brain()
        self.journal = coordinator.journal
        self.say = say
        self.versions = Versions(coordinator, say)
        self.shelving = Shelving(coordinator, say)

    async def run(self) -> None:
        """Do all steps. A role or shard that cannot serve is noted as failed and the others go on.

        So are those of a node that Ray does not see; `say` is told how it joins. At last whoever the file
        does not have is ended: an apply was cut off before it came to that. Raises UserError for a base that
        cannot be loaded or does not fit.
        """
        self.crew.look()
        for node in self.crew.missing:
            error = self.crew.not_seen(node)
            self.say(Progress(f"node {node}", problem=f"{error}; {error.hint}"))
        stored = await self.start_stores()
        engines, shards = await asyncio.gather(
            self.start_engines(self.crew.fleet), self.shelving.start(self.crew.lab.rag)
        )
        versions = await self.versions.of(self.crew.lab.roles, stored)
        known = {
            name: report
            for name, report in self.coordinator.census.engines.items()
            if report is not None and name in self.crew.fleet
        }
        for node, report in stored.items():
            self.coordinator.take(joined(self.crew, node, report, known | engines))
        for version in versions.values():
            self.versions.register(version)
        for name, shelved in shards.items():
            self.shelving.register(name, shelved)
        await self.hire_roles(self.crew.lab.roles)
        for item in self.versions.given_up.values():
            self.coordinator.take(Removed(item))
        await self.coordinator.beat()
        self._finish_orders()
        self.coordinator.open()
        await self._sweep()
        await come_home(self.coordinator, list(self.machine.state.items), self.say)
        await end_strangers(self.coordinator, self.say)

    async def start_stores(self) -> dict[str, Stored]:
        """Start the store of each node that is there; one that does not answer is told and left for later."""
        stored: dict[str, Stored] = {}
        for node in self.crew.here:
            if node not in self.crew.stores:
                self.crew.hire_store(node)
            store = self.crew.stores[node]
            try:
                await reach(store.fence.remote(self.machine.state.epoch), f"store:{node}", START_S)
                await reach(store.start.remote(), f"store:{node}", START_S)
                stored[node] = await reach(store.beat.remote(), f"store:{node}", START_S)
            except Unreachable as error:
                self.say(Progress(f"node {node}", problem=str(error)))
        self.crew.raised = set(stored)
        return stored

    async def start_engines(self, engines: Iterable[str]) -> dict[str, Decoding]:
        """Start these engines, by name, on nodes that are there; return what each reports."""

        async def start(name: str) -> Decoding | None:
            base, node = self.crew.fleet[name].base.name, self.crew.where(f"engine:{name}")
            if node not in self.crew.here:
                return None
            if name not in self.crew.engines:
                self.crew.hire_engine(name)
            began = time.perf_counter()
            engine = self.crew.engines[name]
            try:
                epoch = self.machine.state.epoch
                await steadily(lambda: reach(engine.fence.remote(epoch), f"engine:{name}", START_S))
                report: Decoding = await steadily(
                    lambda: reach(engine.start.remote(), f"engine:{name}", START_S)
                )
                self.crew.anatomies[base] = await reach(engine.anatomy.remote(), f"engine:{name}", START_S)
            except Unreachable as error:
                self.crew.raised.discard(node)  # its node counts as a newcomer, and is raised again
                self.say(Progress(f"base {name}", problem=str(error)))
                return None
            place = self.crew.engine_places[name] = engine_place(self.crew, name, report)
            self.crew.engine_rooms[base] = report.room
            self.say(Progress(f"base {name} on {place}", report.base_nbytes, time.perf_counter() - began))
            return report

        names = list(engines)
        reports = await asyncio.gather(*map(start, names))
        return {name: report for name, report in zip(names, reports, strict=True) if report is not None}

    async def hire_roles(self, names: Iterable[str]) -> None:
        """Hire the current incarnation of each role; those that are replaced answer to their end.

        So do the versions that they serve.
        """
        versions = {version.role: version for version in self.journal.versions()}
        failures = {failure.role: failure for failure in self.journal.failures()}

        async def hire(name: str) -> None:
            failure = failures.get(name)
            error = UserError(failure.code, failure.message, failure.hint) if failure else None
            item = versions[name].item if name in versions and error is None else ""
            if error is None and self.crew.role_node(name) not in self.crew.here:
                return  # it is born again with its node
            try:
                ending = await incarnations.hire(self.crew, name, item, error)
            except TierceError as unhired:
                self.versions.fail(name, unhired)
                return
            self.coordinator.keep(let_go(self.coordinator, name, ending))

        await asyncio.gather(*map(hire, names))

    async def _sweep(self) -> None:
        """Drop what is left of versions that were replaced: a crash came before their removal."""
        state = self.machine.state
        current = {spec.name: spec for spec in state.items.values() if spec.kind == "adapter"}
        for place, held in state.strangers.items():
            for item in held:
                role, versioned, _ = item.partition("@")
                if not versioned or role not in current:
                    continue
                drop = Drop("", item, place, f"{current[role].item} replaced it")
                await self.coordinator.effects.perform(drop, replace(current[role], item=item))
                self.journal.tell(item, describe(drop), time.time())

    def _finish_orders(self) -> None:
        """Go on with what people ordered, or wrote into the file, while the coordinator was not there.

        An order that no longer fits is told, not kept.
        """
        state = self.machine.state
        for order in unmet(state, self.journal.homes()):
            try:
                self.coordinator.take(order)
            except TierceError as error:
                size = format_bytes(state.items[order.item].nbytes)
                told = f"{size} do not come to {order.to} as ordered: {error}"
                self.journal.tell(order.item, told, time.time())
