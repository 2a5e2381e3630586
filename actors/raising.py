"""Raising a lab.

Hire the actors, check every adapter, tell the Machine what there is, and wait until all is at home. Each step
finds what is done already, so a raising that was cut off, or a coordinator that was reborn, begins at the
top.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from actors.errors import Unreachable, reach
from actors.journal import Failure, Version
from actors.muster import durable, engine_place, joined, role_spec, shard_item, shard_spec
from actors.progress import Progress
from placement.errors import TierceError, UserError, WorldError
from placement.messages import MoveOrdered, PinSet, Registered
from placement.plan import no_room
from placement.state import Item, Place
from placement.tiers import Tier
from placement.units import format_bytes

if TYPE_CHECKING:
    from actors.coordinator import Coordinator
    from actors.engine import Decoding
    from actors.shard import Ingested, Shelved
    from actors.store import Stored

START_S = 180.0
PREPARE_S = 600.0
INGEST_S = 3600.0
HOME_S = 300.0
TELL_S = 10.0
TRIES = 4
RETRY_S = 3.0

T = TypeVar("T")


class Raising:
    """One run of `tierce up` inside the coordinator; `say` is told each finished step."""

    def __init__(self, coordinator: Coordinator, say: Callable[[Progress], None]) -> None:
        self.coordinator = coordinator
        self.machine, self.crew = coordinator.brain()
        self.journal = coordinator.journal
        self.say = say

    async def run(self) -> None:
        """Do all steps. A role or shard that cannot serve is noted as failed and the others go on.

        Raises UserError for a base that cannot be loaded or does not fit, WorldError for an actor that never
        starts.
        """
        self.crew.hire_stores()
        self.crew.hire_engines()
        self.crew.hire_shards()
        stored = await self._start_stores()
        engines, versions, shards = await asyncio.gather(
            self._start_engines(), self._versions(stored), self._start_shards()
        )
        for node, report in stored.items():
            self.coordinator.take(joined(self.crew, node, report, engines))
        for version in versions:
            self._register(version)
        for name, shelved in shards.items():
            self._register_shard(name, shelved)
        await self._hire_roles({version.role: version for version in versions})
        await self.coordinator.beat()
        self._repeat_orders()
        self.coordinator.open()
        await self._come_home()

    async def _start_stores(self) -> dict[str, Stored]:
        stored = {}
        for node, store in self.crew.stores.items():
            await reach(store.start.remote(), f"store:{node}", START_S)
            stored[node] = await reach(store.beat.remote(), f"store:{node}", START_S)
        return stored

    async def _start_engines(self) -> dict[str, Decoding]:
        async def start(base: str) -> Decoding:
            began = time.perf_counter()
            report: Decoding = await reach(self.crew.engines[base].start.remote(), f"engine:{base}", START_S)
            place = self.crew.engine_places[base] = engine_place(self.crew, base, report)
            self.crew.engine_rooms[base] = report.room
            self.say(Progress(f"base {base} on {place}", report.base_nbytes, time.perf_counter() - began))
            return report

        bases = list(self.crew.engines)
        return dict(zip(bases, await asyncio.gather(*map(start, bases)), strict=True))

    async def _versions(self, stored: dict[str, Stored]) -> list[Version]:
        """Return the version of each role that can serve; of the others, the reason is noted and told."""
        known = {version.role: version for version in self.journal.versions()}

        async def version(name: str) -> Version | None:
            found = known.get(name)
            source = self.crew.origin(name).lora_path
            if found and found.source == source and found.item in stored[found.node].ssd:
                return found
            try:
                return await self._steadily(lambda: self._prepare(name))
            except TierceError as error:
                self._fail(name, f"role {name}", error)
                return None

        versions = await asyncio.gather(*map(version, self.crew.lab.roles))
        return [version for version in versions if version is not None]

    async def _prepare(self, name: str) -> Version:
        """Check a role's adapter and keep its image on the SSD of its node."""
        role = self.crew.lab.roles[name]
        node = self.crew.node_of(role.node)
        if role.location is Tier.NETWORK:
            raise UserError(
                "TRC060", f"roles.{name}.location: adapters rest in VRAM, RAM or SSD so far, not network"
            )
        origin = self.crew.origin(name)
        began = time.perf_counter()
        call = self.crew.stores[node].prepare.remote(origin)
        item, found = await reach(call, f"store:{node}", PREPARE_S)
        for warning in found.warnings:
            self.journal.tell(item, f"warning: {warning}", time.time())
        version = Version(item, name, found.digest, found.image_digest, found.nbytes, node, origin.lora_path)
        self.journal.register(version)
        self.journal.tell(
            item, f"read from {origin.lora_path}: rank {found.rank}, {found.modules} modules", time.time()
        )
        self.say(Progress(f"adapter {item} on {durable(node)}", found.nbytes, time.perf_counter() - began))
        return version

    def _register(self, version: Version) -> None:
        if Item(version.item) in self.machine.state.items:
            return
        base = self.crew.base_of(self.crew.lab.roles[version.role])[0]
        spec = role_spec(self.crew, version, self.crew.engine_places[base])
        self.coordinator.take(Registered(spec, (spec.durable,)))

    def _register_shard(self, name: str, report: Shelved) -> None:
        if shard_item(name) in self.machine.state.items or report.tier is None:
            return
        spec = shard_spec(self.crew, name, report)
        node = spec.durable.node
        self.coordinator.take(Registered(spec, (spec.durable, Place(node, report.tier))))

    async def _hire_roles(self, versions: dict[str, Version]) -> None:
        failures = {failure.role: failure for failure in self.journal.failures()}

        async def hire(name: str) -> None:
            failure = failures.get(name)
            error = UserError(failure.code, failure.message, failure.hint) if failure else None
            item = versions[name].item if name in versions else ""
            await self.crew.hire_role(name, item, error)

        await asyncio.gather(*map(hire, self.crew.lab.roles))

    async def _start_shards(self) -> dict[str, Shelved]:
        """Open every shard and take in its documents; return the reports of those that can serve."""
        names = list(self.crew.shards)
        reports = await asyncio.gather(*map(self._start_shard, names))
        return {name: report for name, report in zip(names, reports, strict=True) if report is not None}

    async def _start_shard(self, name: str) -> Shelved | None:
        began = time.perf_counter()
        shard = self.crew.shards[name]
        try:
            if (where := self.crew.lab.rag[name].location) not in {Tier.RAM, Tier.SSD}:
                raise UserError(
                    "TRC061", f"rag.{name}.location: shards rest in RAM or SSD so far, not {where}"
                )
            done = await self._steadily(lambda: self._ingest(name))
            report: Shelved = await reach(shard.beat.remote(), f"shard:{name}", START_S)
        except TierceError as error:
            self._fail(name, f"shard {name}", error)
            return None
        self.journal.mend(name)
        counts = f"{done.documents} documents, {done.chunks} new passages, {done.unchanged} unchanged"
        self.say(Progress(f"shard {name}: {counts}", done.nbytes, time.perf_counter() - began))
        for skipped in done.skipped:
            self.journal.tell(shard_item(name), f"skipped {skipped}", time.time())
        return report

    async def _ingest(self, name: str) -> Ingested:
        """Have a shard take in its documents, and tell now and then how far it is."""
        shard = self.crew.shards[name]
        taking = asyncio.ensure_future(reach(shard.ingest.remote(), f"shard:{name}", INGEST_S))
        began, points = time.perf_counter(), 0
        while not (await asyncio.wait({taking}, timeout=TELL_S))[0]:
            so_far: Shelved = await reach(shard.beat.remote(), f"shard:{name}", START_S)
            if so_far.points != points:
                points = so_far.points
                told = f"shard {name}: {points} passages so far"
                self.say(Progress(told, so_far.nbytes, time.perf_counter() - began, going_on=True))
        done: Ingested = await taking
        return done

    async def _steadily(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do a piece of work; again, if an actor that it needs is just being restarted."""
        for _ in range(TRIES - 1):
            try:
                return await work()
            except Unreachable:
                await asyncio.sleep(RETRY_S)
        return await work()

    def _fail(self, name: str, what: str, error: TierceError) -> None:
        self.journal.fail(Failure(name, error.code, error.message, error.hint))
        self.journal.tell(name, str(error), time.time())
        self.say(Progress(what, problem=str(error)))

    def _repeat_orders(self) -> None:
        """Give the Machine what people ordered before a restart.

        An order that no longer fits is told, not kept.
        """
        state = self.machine.state
        for name, kind, value in self.journal.orders():
            item = Item(name)
            if item not in state.items:
                continue
            try:
                if kind == "pin":
                    self.coordinator.take(PinSet(item, bool(value), "an order before the restart"))
                elif isinstance(value, list) and state.home(item) != (
                    to := Place(value[0], Tier(value[1]), value[2])
                ):
                    undone = not state.ready(item, to)
                    order = MoveOrdered(item, to, "an order before the restart", clears=undone)
                    self.coordinator.take(order)
            except TierceError as error:
                self.journal.tell(
                    name, f"the order of before the restart no longer fits: {error}", time.time()
                )

    async def _come_home(self) -> None:
        """Wait until each item is ready at its home or is known not to get there; tell each."""
        began = time.monotonic()
        pending = list(self.machine.state.items)
        while pending:
            in_time = await self.coordinator.until(
                lambda: any(self._settled(item) for item in pending), HOME_S - (time.monotonic() - began)
            )
            for item in [item for item in pending if self._settled(item) or not in_time]:
                pending.remove(item)
                self._tell_home(item, time.monotonic() - began)

    def _settled(self, item: Item) -> bool:
        """Tell whether an item is at home, or waiting longer would not bring it there."""
        state = self.machine.state
        home = state.home(item)
        setback = state.backoff.get((item, home))
        hopeless = setback is not None and setback.permanent
        crowded = no_room(state, item, home) != "" and not state.ops
        return state.ready(item, home) or hopeless or crowded

    def _tell_home(self, item: Item, took_s: float) -> None:
        """Tell that an item is at home, or why not; one that is crowded out still comes up when asked."""
        state = self.machine.state
        spec, home = state.items[item], state.home(item)
        if state.ready(item, home):
            copied = self.coordinator.effects.copied.get((item, home), (0, 0.0))
            self.say(Progress(f"{spec.name} is at home in {home}", *copied))
            return
        setback = state.backoff.get((item, home))
        code, why = (
            ("TRC022", no_room(state, item, home)) if setback is None else (setback.code, setback.reason)
        )
        why = why or f"it has not come there in {took_s:.0f} s"
        error = WorldError(code, f"{item} ({format_bytes(spec.nbytes)}) is not at {home}: {why}")
        self.journal.tell(item, str(error), time.time())
        self.say(Progress(spec.name, problem=str(error)))
