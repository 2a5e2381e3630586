"""The beat of a lab: once a second everyone is asked what is held where, and the Machine is told."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.ask_log import AskLog
from actors.census import answered, beat
from actors.errors import reach
from actors.recollection import Recollection
from placement.errors import TierceError
from placement.mending import Mending
from placement.messages import Tick

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.coordinator import Coordinator
    from placement.state import Spec

BEAT_DEADLINE_S = 3.0


class Beats:
    """Asks, tells, and starts what was reborn. One beat at a time."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._beating = asyncio.Lock()
        self._recollection = Recollection()
        self._ask_log = AskLog(Path(coordinator.spec.home))
        self._log_trouble = ""
        #: durable copies that are being built again, or could not be
        self._mending = Mending()
        #: what scrubbing found, by node and item: each is told once
        self._damaged: dict[tuple[str, str], str] = {}

    async def beat(self) -> None:
        """Ask stores, engines and shards what they hold, and tell the Machine.

        Start those that were reborn.
        """
        async with self._beating:
            await self._beat()

    async def _beat(self) -> None:
        machine, crew = self._coordinator.machine, self._coordinator.crew
        if machine is None or crew is None:  # taken down while we waited for our turn
            return
        census = self._coordinator.census
        asked_s = time.monotonic()
        await asyncio.gather(
            self.ask(crew.stores, census.stores),
            self.ask(crew.engines, census.engines, self._ask_log.heard, census.ended),
            self.ask(crew.shards, census.shards),
        )
        if self._coordinator.machine is not machine:  # taken down meanwhile
            return
        census.count()
        for node in crew.selectors:
            if node in machine.state.nodes and answered(crew, census, node):
                self._coordinator.take(beat(crew, census, machine.state, node, asked_s))
        self._tell_damage()
        self._log_asks()
        for handles, reports in ((crew.stores, census.stores), (crew.engines, census.engines)):
            for name, handle in handles.items():  # one that leaves still has a report
                report = reports.get(name)
                if report is not None and not report.started:
                    handle.start.remote()
        self._coordinator.take(Tick())
        self._recollection.keep(machine, self._coordinator.journal, time.monotonic())
        for item in machine.state.gone:
            spec = machine.state.items[item]
            lost = spec.kind == "adapter" and item not in machine.state.retired
            if lost and self._mending.begin(item, time.monotonic()):
                self._coordinator.keep(self._mend(spec))

    def _tell_damage(self) -> None:
        """Write down what scrubbing set aside since the beat before."""
        found = {
            (node, item): why
            for node, report in self._coordinator.census.stores.items()
            if report is not None
            for item, why in report.damaged.items()
        }
        for (node, item), why in sorted(found.items() - self._damaged.items()):
            told = f"its file on {node} was found damaged by scrubbing and set aside: {why}"
            self._coordinator.journal.tell(item, told, time.time())
        self._damaged = found

    def _log_asks(self) -> None:
        """Write down what the engines answered; a disk that takes no more of it is told of once."""
        machine, crew = self._coordinator.brain()
        costs = {item: cost for item, (_, cost) in self._coordinator.effects.activated.items()}
        for base, report in self._coordinator.census.engines.items():
            place = crew.engine_places.get(base)
            if report is None or place is None or place not in machine.state.rooms:
                continue
            try:
                self._ask_log.hear(base, report.pid, report.uses, place, machine.state, costs)
            except OSError as error:
                told = f"the log of asks cannot be written: {error}"
                if told != self._log_trouble:
                    self._coordinator.journal.tell("lab", told, time.time())
                self._log_trouble = told

    async def _mend(self, spec: Spec) -> None:
        why = await self._coordinator.effects.mend(spec)
        told = self._mending.end(spec.item, time.monotonic(), why)
        if told:
            self._coordinator.journal.tell(spec.item, told, time.time())

    async def ask(
        self,
        handles: dict[str, Any],
        into: dict[str, Any],
        heard: Callable[[str], object] | None = None,
        ended: set[str] | None = None,
        **how: bool,
    ) -> None:
        """Ask each actor for its report; None stands for one that did not answer in time.

        Whoever tells something until it is `heard` is told what was; `how` goes with the call. `ended` gets
        who has died and does not run yet.
        """
        ended = set() if ended is None else ended

        async def ask(name: str, handle: Any) -> None:
            known = () if heard is None else (heard(name),)
            try:
                into[name] = await reach(handle.beat.remote(*known, **how), name, BEAT_DEADLINE_S)
                ended.discard(name)
            except TierceError as error:
                into[name] = None  # told as silence: `ps` shows it, the Machine decides what it means
                if error.code == "TRC031":
                    ended.add(name)

        await asyncio.gather(*(ask(name, handle) for name, handle in list(handles.items())))
