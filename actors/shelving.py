"""Opening shards: each is brought to the content of its source, or its server is reached, then registered."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from actors.errors import reach
from actors.muster import shard_item, shard_spec
from actors.progress import Progress
from actors.said import Orders
from actors.versions import note_failure, steadily
from placement.errors import TierceError
from placement.messages import Registered
from placement.state import Place
from placement.tiers import Tier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from actors.coordinator import Coordinator
    from actors.shard import Ingested, Shelved

START_S = 180.0
INGEST_S = 3600.0
TELL_S = 10.0


class Shelving:
    """Opens the shards of a lab; `say` is told each finished step."""

    def __init__(self, coordinator: Coordinator, say: Callable[[Progress], None]) -> None:
        self.coordinator = coordinator
        self.machine, self.crew = coordinator.brain()
        self.journal = coordinator.journal
        self.say = say

    async def start(self, names: Iterable[str]) -> dict[str, Shelved]:
        """Open every shard and take in its documents; return the reports of those that can serve."""
        wanted = list(names)
        reports = await asyncio.gather(*map(self._start, wanted))
        return {name: report for name, report in zip(wanted, reports, strict=True) if report is not None}

    async def _start(self, name: str) -> Shelved | None:
        began = time.perf_counter()
        try:
            if (node := self.crew.shard_node(name)) not in self.crew.here:
                raise self.crew.not_seen(node)
            if name not in self.crew.shards:
                self.crew.hire_shard(name)
            epoch = self.machine.state.epoch
            shard = self.crew.shards[name]
            await steadily(lambda: reach(shard.fence.remote(epoch), f"shard:{name}", START_S))
            done = await steadily(lambda: self._ingest(name))
            report: Shelved = await reach(self.crew.shards[name].beat.remote(), f"shard:{name}", START_S)
        except TierceError as error:
            note_failure(self.journal, self.say, "shard", name, error)
            return None
        self.journal.mend(name)
        counts = f"{done.documents} documents, {done.chunks} new passages, {done.unchanged} unchanged"
        if report.tier is Tier.NETWORK:
            counts = f"answers from {self.crew.lab.rag[name].url}"
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

    def register(self, name: str, report: Shelved) -> None:
        """Tell the Machine of a shard that it does not know; one on the network is not its to move."""
        if shard_item(name) in self.machine.state.items or report.tier in {None, Tier.NETWORK}:
            return
        spec = Orders(self.journal).applied(shard_spec(self.crew, name, report), self.crew.here)
        # Where its index really is, the next beat tells; one in VRAM cannot be claimed, only copied there.
        below = Tier.SSD if report.tier is Tier.VRAM else report.tier
        index = Place(spec.durable.node, below or Tier.SSD)
        self.coordinator.take(Registered(spec, (spec.durable, index)))
