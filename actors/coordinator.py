"""The Coordinator: owns the Machine and the journal, performs the Machine's commands, never holds a weight.

Every decision is the Machine's; this file turns each command into calls and each answer into the next event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors import applying, changes, describing, orders, planning, renewal, said, wants
from actors.ask import named
from actors.beats import Beats
from actors.census import Census
from actors.crew import Crew
from actors.effects import COPY_S, DRAIN_S, Effects
from actors.errors import reach
from actors.journal import Journal
from actors.muster import limits, seats
from actors.progress import Progress, steps_of
from actors.raising import Raising
from actors.recollection import recollect
from actors.schedule import Schedule
from placement.errors import TierceError, WorldError
from placement.invariants import check
from placement.machine import Machine
from placement.messages import Copy, Drop, Event, Grant, Refuse, Tick, describe
from placement.state import Item
from placement.tale import outcome

if TYPE_CHECKING:
    from actors.answer import Activation
    from actors.description import Description
    from actors.journal import Activated, Line
    from actors.listing import Listing, Thing
    from actors.renewed import Renewed
    from actors.spec import LabSpec
    from actors.warming import Warming
    from placement.config.edits import Edit
    from placement.preview.drift import Drift
    from placement.preview.plan import Plan

#: An effect ends by its own deadline; the Machine gives it up only after that.
OP_S = DRAIN_S + 2 * COPY_S
BEAT_S = 1.0
#: The pause after a recovery that failed.
RECOVER_S = 30.0
#: The pause between two looks at nodes that joined late.
WELCOME_S = 5.0


class Coordinator:
    """Plain class; `actors.watcher` wraps it as an actor. Its state comes back from the journal."""

    def __init__(self, spec: LabSpec) -> None:
        #: the file as it was brought up; what was said since is in the journal, and both together in the crew
        self.spec = spec
        #: what was said of roles since the file, and holds
        self.edits: list[Edit] = []
        self.machine: Machine | None = None
        self.crew: Crew | None = None
        self.effects: Effects
        self.census = Census()
        self.wants = wants.Wants()
        self.fetches: dict[str, asyncio.Task[Item]] = {}
        self.beats = Beats(self)
        self.schedule = Schedule()
        #: held by whoever changes which actors there are
        self.changing = asyncio.Lock()
        self.watching = False
        self._journal: Journal | None = None
        self._turn = asyncio.Event()
        #: set once what the journal knew has been told to the Machine, or there was nothing to tell
        self._open = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        #: the bringing up or apply that runs now
        self.bringing: asyncio.Task[Any] | None = None
        #: why the lab could not be brought up again after a restart; every call gets it
        self._trouble: TierceError | None = None
        #: when `_look_again` looks next
        self._look_s = 0.0
        #: a fault of ours in a piece of work that nobody waits for
        self._fault: BaseException | None = None

    async def watch(self) -> None:
        """Recover what the journal knows, then beat until the end; a second call returns at once.

        Raises a fault of our own, never one of the world.
        """
        if self.watching:
            return
        self.watching = True
        if self.journal.fact("lab") == self.spec.fingerprint:
            self.keep(self._recover())
        else:
            self.open()
        while True:
            await asyncio.sleep(BEAT_S)
            if self._fault is not None:
                raise self._fault
            await self.beat()
            if self.machine is not None:
                self.schedule.strike(self)
            self._look_again()

    async def _recover(self) -> None:
        try:
            await self._bring_up(lambda _: None)
        except TierceError as error:
            self._trouble = error
        finally:
            self.open()

    def _look_again(self) -> None:
        """Now and then, bring up what failed after a restart, or what belongs on nodes that joined late."""
        now_s = time.monotonic()
        if self.bringing is not None or now_s < self._look_s:
            return
        if self._trouble is not None:
            self._look_s = now_s + RECOVER_S
            self.keep(self._recover())
        elif self.crew is not None and self.journal.fact("up") == self.spec.fingerprint:
            self._look_s = now_s + WELCOME_S
            if self.crew.newcomers():
                self.keep(self._welcome())

    async def _welcome(self) -> None:
        """Bring up what belongs on nodes that joined after the lab came up."""
        try:
            await self._bring_up(lambda _: None)
        except TierceError as error:
            self.journal.tell("lab", f"what joined could not be brought up: {error}", time.time())

    @property
    def journal(self) -> Journal:
        if self._journal is None:
            journal = Journal.open(Path(self.spec.home) / "journal.db")
            self.spec = said.recalled(self.spec, journal)  # may raise: then there is no journal yet
            self._journal = journal
        return self._journal

    async def standing(self) -> tuple[str, bool]:
        """Return the fingerprint of the file that this lab is made from, and whether it is up or rising."""
        up = self.journal.fact("up") == self.spec.fingerprint
        return self.spec.fingerprint, up or self.bringing is not None

    async def up(self) -> AsyncIterator[Progress]:
        """Bring the lab up, telling each step.

        What is up already stays as it is, what failed is tried again.
        """
        async for step in steps_of(self._bring_up):
            yield step
        for told in await planning.outdated(self):
            yield Progress(told)

    async def plan(self, spec: LabSpec, *, forget: bool = False) -> Plan:
        return (await planning.draw(self, spec, forget=forget)).plan

    async def drift(self, spec: LabSpec) -> tuple[Drift, ...]:
        return await planning.drift(self, spec)

    async def apply(self, spec: LabSpec, mark: str, *, forget: bool = False) -> AsyncIterator[Progress]:
        """Make the lab as a file says, telling each step; see `actors.applying`."""
        async for step in steps_of(lambda say: applying.apply(self, spec, mark, say, forget=forget)):
            yield step

    async def _bring_up(self, say: Callable[[Progress], None]) -> None:
        async with self.changing:
            self.bringing = asyncio.current_task()
            try:
                self._begin(say)
                await Raising(self, say).run()
            finally:
                self.bringing = None
            self.journal.set_fact("up", self.spec.fingerprint)
            self._trouble = None

    def _begin(self, say: Callable[[Progress], None]) -> None:
        """Start a Machine and a crew if there are none; of another file's lab only what was said stays."""
        if self.machine is not None:
            return
        if self.journal.fact("lab") not in {None, self.spec.fingerprint}:
            self.journal.forget_lab(said=False)
        spec, self.edits = said.since(self.spec, self.journal, say)
        self.journal.set_fact("lab", self.spec.fingerprint)
        epoch = self.journal.next_epoch()
        for op, item, command in self.journal.open_intents():
            self.journal.end(op, item, f"cut off by a restart: {command}", time.time())
        self.crew = Crew(spec)
        self.crew.seats = seats(said.Orders(self.journal))
        self.machine = Machine(limits(spec.lab.policy, OP_S), epoch)
        recollect(self.machine, self.journal)
        self.effects = Effects(self.crew, self.journal, epoch)

    async def down(self, *, forget: bool = False) -> None:
        """Let go of the lab: shards write their files down; the story stays.

        So does what was said since the file, unless `forget`. A bringing up or apply that runs is broken off.
        The caller ends the actors.
        """
        if self.bringing is not None:
            self.bringing.cancel()
        async with self.changing:
            crew, self.machine = self.crew, None
            if crew is not None:
                closing = [reach(shard.close.remote(), name, DRAIN_S) for name, shard in crew.shards.items()]
                await asyncio.gather(*closing, return_exceptions=True)
            self.journal.forget_lab(said=forget)

    def brain(self) -> tuple[Machine, Crew]:
        """Return the Machine and the crew. Raises WorldError TRC046 while the lab is not up."""
        if self.machine is None or self.crew is None:
            name = self.spec.lab.name
            raise WorldError("TRC046", f"lab {name} is not up yet", "wait for `tierce up` to end")
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
        # between Ticks, of what the event changed: waiters have engines tell of their seats every 20 ms
        check(machine.state, machine.limits, None if isinstance(event, Tick) else machine.state.changed)
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
                    self.keep(self._perform(command))
        self._turn.set()
        self._turn = asyncio.Event()

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a piece of work and hold on to it until it ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            self._fault = self._fault or task.exception()

    async def _perform(self, command: Copy | Drop) -> None:
        machine = self.machine
        if machine is None:  # taken down meanwhile
            return
        event = await self.effects.perform(command, machine.state.items[command.item])
        self.journal.end(command.op, command.item, outcome(command, event), time.time())
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
        await self.beats.beat()

    def item_named(self, name: str) -> Item:
        return changes.item_named(self, name)

    async def want(self, item: str, caller: str, within_s: float) -> Activation:
        return await wants.bring(self, Item(item), caller, within_s)

    async def fetch(self, role: str, caller: str, within_s: float) -> str:
        return await wants.fetch(self, role, named(caller), within_s)

    async def move(self, name: str, to: str | None, node: str | None, within_s: float) -> Thing:
        return await orders.move(self, name, to, node, within_s)

    async def pin(self, name: str, pinned: bool) -> Thing:  # noqa: FBT001  (the order itself)
        return await orders.pin(self, name, pinned=pinned)

    async def warm(self, name: str, caller: str, cause: str, within_s: float) -> Warming:
        return await orders.warm(self, name, caller, cause, within_s)

    async def cool(self, name: str, cause: str) -> Thing:
        return await orders.cool(self, name, cause)

    async def unload(self, name: str, cause: str) -> Thing:
        return await orders.unload(self, name, cause)

    async def add_role(self, name: str, fields: dict[str, Any]) -> Thing:
        return await changes.add_role(self, name, fields)

    async def update_role(self, name: str, changed: dict[str, Any]) -> Thing:
        return await changes.update_role(self, name, changed)

    async def update(self, role: str) -> Renewed:
        return await renewal.renew(self, role)

    async def remove_role(self, name: str) -> Thing:
        return await changes.remove_role(self, name)

    async def export(self) -> str:
        """Return the lab as a file: what it was brought up from, and what was said and ordered since."""
        _, crew = await self.opened()
        return said.export(self.spec, self.edits, self.journal, crew.lab)

    async def ps(self) -> Listing:
        return await describing.ps(self)

    async def describe(self, name: str) -> Description:
        return await describing.describe(self, name)

    async def story(self, name: str) -> list[Line]:
        return await describing.story(self, name)

    async def activations(self) -> list[Activated]:
        return self.journal.activations()
