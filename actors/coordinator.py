"""The Coordinator.

Owns the Machine and the journal, performs the Machine's commands, and never holds a weight. Every decision is
the Machine's; this file turns each command into calls and each answer into the next event. It passes
references from one place to another and never touches the bytes.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from actors import orders, wants
from actors.answer import Activation
from actors.census import Census, Presence, answered, beat, listing
from actors.crew import Crew, LabSpec, selectors
from actors.effects import COPY_S, DRAIN_S, Effects
from actors.errors import UnknownName, reach
from actors.journal import Journal
from actors.raising import Raising
from placement.errors import TierceError, WorldError
from placement.invariants import check
from placement.machine import Machine
from placement.messages import (
    Copy,
    Drop,
    Event,
    Grant,
    Refuse,
    Tick,
    describe,
)
from placement.state import Item, Limits, Spec

if TYPE_CHECKING:
    from actors.journal import Activated, Line
    from actors.listing import Listing, Thing
    from actors.progress import Progress

#: An effect ends by its own deadline; the Machine gives it up only after that.
LIMITS = Limits(op_s=DRAIN_S + 2 * COPY_S)
BEAT_S = 1.0
BEAT_DEADLINE_S = 3.0
#: Pauses after a recovery, and after a rebuilding, that failed.
RECOVER_S = 30.0
MEND_PAUSE_S = 60.0


class Coordinator:
    """Plain class; `actors.watcher` wraps it as an actor. Its state comes back from the journal."""

    def __init__(self, spec: LabSpec) -> None:
        self.spec = spec
        self.machine: Machine | None = None
        self.crew: Crew | None = None
        self.effects: Effects
        self.census = Census()
        self._journal: Journal | None = None
        self._raising = asyncio.Lock()
        self._turn = asyncio.Event()
        #: set once what the journal knew has been told to the Machine, or there was nothing to tell
        self._open = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.wants = wants.Wants()
        #: items whose durable copy is being built again, or could not be: not tried before that time
        self._mending: dict[Item, float] = {}
        self._beating = asyncio.Lock()
        self.watching = False
        #: the bringing up that runs now
        self._bringing: asyncio.Task[Any] | None = None
        #: why the lab could not be brought up again after a restart; every call gets it
        self._trouble: TierceError | None = None
        #: a fault of ours in a piece of work that nobody waits for
        self._fault: BaseException | None = None

    async def watch(self) -> None:
        """Recover what the journal knows, then beat until the end of the process.

        A second call returns at once. Raises a fault of our own, never one of the world.
        """
        if self.watching:
            return
        self.watching = True
        if self.journal.fact("lab") == self.spec.fingerprint:
            await self._recover()
        self.open()
        tried_s = time.monotonic()
        while True:
            await asyncio.sleep(BEAT_S)
            if self._fault is not None:
                raise self._fault
            if self._trouble is not None and time.monotonic() - tried_s > RECOVER_S:
                await self._recover()
                tried_s = time.monotonic()
            if self.machine is not None:
                await self.beat()

    async def _recover(self) -> None:
        try:
            await self._bring_up(lambda _: None)
        except TierceError as error:
            self._trouble = error

    @property
    def journal(self) -> Journal:
        if self._journal is None:
            self._journal = Journal.open(Path(self.spec.home) / "journal.db")
        return self._journal

    async def standing(self) -> tuple[str, bool]:
        """Return the fingerprint of the file that this lab is made from, and whether it is up or rising."""
        up = self.journal.fact("up") == self.spec.fingerprint
        return self.spec.fingerprint, up or self._bringing is not None

    async def up(self) -> AsyncIterator[Progress]:
        """Bring the lab up, telling each step.

        What is up already stays as it is, what failed is tried again.
        """
        steps: asyncio.Queue[Progress | None] = asyncio.Queue()

        async def bring() -> None:
            try:
                await self._bring_up(steps.put_nowait)
            finally:
                steps.put_nowait(None)

        task = asyncio.create_task(bring())
        while (step := await steps.get()) is not None:
            yield step
        await task

    async def _bring_up(self, say: Callable[[Progress], None]) -> None:
        async with self._raising:
            self._bringing = asyncio.current_task()
            try:
                self._begin()
                await Raising(self, say).run()
            finally:
                self._bringing = None
            self.journal.set_fact("up", self.spec.fingerprint)
            self._trouble = None

    def _begin(self) -> None:
        """Start a Machine and a crew if there are none; a journal of another file's lab is emptied first."""
        if self.machine is not None:
            return
        if self.journal.fact("lab") not in {None, self.spec.fingerprint}:
            self.journal.forget_lab()
        self.journal.set_fact("lab", self.spec.fingerprint)
        epoch = self.journal.next_epoch()
        for op, item, command in self.journal.open_intents():
            self.journal.end(op, item, f"cut off by a restart: {command}", time.time())
        self.crew = Crew(self.spec, selectors(list(self.spec.lab.nodes)))
        self.machine = Machine(LIMITS, epoch)
        self.effects = Effects(self.crew, self.journal, epoch)

    async def down(self) -> None:
        """Let go of the lab: shards write their files down, the journal forgets all but the story.

        A bringing up that still runs is broken off. The caller ends the actors.
        """
        if self._bringing is not None:
            self._bringing.cancel()
        async with self._raising:
            crew, self.machine = self.crew, None
            if crew is not None:
                closing = [reach(shard.close.remote(), name, DRAIN_S) for name, shard in crew.shards.items()]
                await asyncio.gather(*closing, return_exceptions=True)
            self.journal.forget_lab()

    def brain(self) -> tuple[Machine, Crew]:
        """Return the Machine and the crew. Raises WorldError TRC046 while the lab is not up."""
        if self.machine is None or self.crew is None:
            raise WorldError(
                "TRC046", f"lab {self.spec.lab.name} is not up yet", "wait for `tierce up` to end"
            )
        return self.machine, self.crew

    def open(self) -> None:
        """Let calls in: the Machine knows what there is."""
        self._open.set()

    async def opened(self) -> tuple[Machine, Crew]:
        """Wait while a reborn coordinator recovers; then as `brain`, or raise what kept it from that."""
        await self._open.wait()
        if self._trouble is not None:
            raise self._trouble
        return self.brain()

    def take(self, event: Event) -> None:
        """Give one fact to the Machine and start the work that it answers with, or raise InvariantBroken."""
        machine, _ = self.brain()
        moving = machine.state.moves
        commands = machine.handle(event, time.monotonic())
        check(machine.state, machine.limits)
        for item, text in machine.news:
            self.journal.tell(item, text, time.time())
        for item in moving.keys() - machine.state.moves.keys() & machine.state.items.keys():
            orders.note_home(self, item)  # where an undone move left it
        for command in commands:
            match command:
                case Grant(want, _, place):
                    self.wants.grant(want, place)
                case Refuse(want, item, code, reason):
                    self.wants.refuse(want, WorldError(code, reason, f"see `tierce story {item}`"))
                case Copy() | Drop():
                    self.journal.begin(command.op, command.item, describe(command), time.time())
                    self._keep(self._perform(command))
        self._turn.set()
        self._turn = asyncio.Event()

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a piece of work and hold on to it until it ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            self._fault = self._fault or task.exception()

    async def _perform(self, command: Copy | Drop) -> None:
        machine, _ = self.brain()
        event = await self.effects.perform(command, machine.state.items[command.item])
        self.journal.end(command.op, command.item, describe(event), time.time())
        if self.machine is machine:
            self.take(event)

    async def until(self, true: Callable[[], bool], within_s: float) -> bool:
        """Wait for a condition on the Machine's state, looked at after every event.

        Say whether it came true.
        """
        give_up = time.monotonic() + within_s
        while not true():
            left_s = give_up - time.monotonic()
            if left_s <= 0:
                return False
            try:
                await asyncio.wait_for(self._turn.wait(), left_s)
            except TimeoutError:
                return true()
        return True

    async def beat(self) -> None:
        """Ask stores, engines and shards what they hold, and tell the Machine.

        Start those that were reborn.
        """
        async with self._beating:
            await self._beat()

    async def _beat(self) -> None:
        machine, crew = self.brain()
        asked_s = time.monotonic()
        await asyncio.gather(
            self._ask_each(crew.stores, self.census.stores),
            self._ask_each(crew.engines, self.census.engines),
            self._ask_each(crew.shards, self.census.shards),
        )
        if self.machine is not machine:  # taken down meanwhile
            return
        for node in crew.selectors:
            if node in machine.state.nodes and answered(crew, self.census, node):
                news = beat(crew, self.census, machine.state, node, asked_s)
                self.census.count(news)
                self.take(news)
        for handles, reports in ((crew.stores, self.census.stores), (crew.engines, self.census.engines)):
            for name, report in reports.items():
                if report is not None and not report.started:
                    handles[name].start.remote()
        self.take(Tick())
        for item in machine.state.gone:
            spec = machine.state.items[item]
            if spec.kind == "adapter" and self._mending.get(item, 0.0) <= time.monotonic():
                self._mending[item] = math.inf
                self._keep(self._mend(spec))

    async def _mend(self, spec: Spec) -> None:
        mended = await self.effects.mend(spec)
        self._mending[spec.item] = time.monotonic() + (0.0 if mended else MEND_PAUSE_S)

    async def _ask_each(self, handles: dict[str, Any], into: dict[str, Any]) -> None:
        async def ask(name: str, handle: Any) -> None:
            try:
                into[name] = await reach(handle.beat.remote(), name, BEAT_DEADLINE_S)
            except TierceError:
                into[name] = None  # told as silence: `ps` shows it, the Machine decides what it means

        await asyncio.gather(*(ask(name, handle) for name, handle in handles.items()))

    async def want(self, item: str, caller: str, within_s: float) -> Activation:
        return await wants.bring(self, Item(item), caller, within_s)

    def item_named(self, name: str) -> Item:
        """Return the item of a role or shard; an item's own name is taken too."""
        machine, _ = self.brain()
        for item, spec in machine.state.items.items():
            if name in (item, spec.name):
                return item
        known = ", ".join(spec.name for spec in machine.state.items.values())
        raise UnknownName("TRC001", f"the lab has no role or shard {name!r}", f"it has: {known}")

    async def move(self, name: str, to: str, node: str | None, within_s: float) -> Thing:
        return await orders.move(self, name, to, node, within_s)

    async def pin(self, name: str, pinned: bool) -> Thing:  # noqa: FBT001  (the order itself)
        return await orders.pin(self, name, pinned=pinned)

    async def ps(self) -> Listing:
        """Say where everything is, from reports asked for now."""
        machine, crew = await self.opened()
        others: dict[str, Any] = {}
        await asyncio.gather(
            self.beat(),
            self._ask_each({f"embedder:{name}": handle for name, handle in crew.embedders.items()}, others),
            self._ask_each({f"role:{name}": handle for name, handle in crew.roles.items()}, others),
        )
        others["coordinator"] = Presence(os.getpid(), psutil.Process().memory_info().rss, machine.state.epoch)
        self.census.others = others
        return listing(crew, self.census, machine.state, self.journal, time.monotonic())

    async def story(self, name: str) -> list[Line]:
        """Return an item's history with causes; that of a role that failed stands under its name."""
        await self.opened()
        if any(failure.role == name for failure in self.journal.failures()):
            return self.journal.story(name)
        return self.journal.story(self.item_named(name))

    async def activations(self) -> list[Activated]:
        """Return what each activation cost since the lab came up."""
        return self.journal.activations()
