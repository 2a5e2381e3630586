"""Effects: how each command of the Machine is done, and the event that its end makes.

The only place that does them.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from actors.answer import Activation
from actors.errors import reach
from actors.journal import Activated
from placement.errors import Busy, TierceError, UserError
from placement.messages import Copied, Copy, CopyFailed, Drop, Dropped, DropRefused, Event
from placement.state import NETWORK
from placement.tiers import Tier

if TYPE_CHECKING:
    from actors.crew import Crew
    from actors.engine import Seated
    from actors.journal import Journal
    from actors.store import Offer
    from placement.state import Item, Place, Spec

DRAIN_S = 20.0
COPY_S = 120.0
MEND_S = 600.0
#: A fetch that takes longer goes on; the next copy of the item joins it.
FETCH_S = 2 * COPY_S


class Effects:
    """Performs Copy and Drop by calling stores, engines and shards; never raises for what they answer.

    References pass through here, bytes do not.
    """

    def __init__(self, crew: Crew, journal: Journal, epoch: int) -> None:
        self.crew = crew
        self.journal = journal
        self.epoch = epoch
        #: the last activation of each item, and when (monotonic seconds) it was done
        self.activated: dict[Item, tuple[float, Activation]] = {}
        #: what the last copy of an item to a place moved, and how long it took: bytes, seconds
        self.copied: dict[tuple[Item, Place], tuple[int, float]] = {}
        self._proving: set[asyncio.Task[None]] = set()

    async def perform(self, command: Copy | Drop, spec: Spec) -> Event:
        """Do what `command` says about the item of `spec`; return the event of its end."""
        if isinstance(command, Drop):
            return await self._drop(command, spec)
        event = await self._copy(command, spec)
        if isinstance(event, Copied):
            self.copied[command.item, command.target] = (event.nbytes, event.took_s)
        return event

    async def _copy(self, command: Copy, spec: Spec) -> Event:
        began = time.perf_counter()
        try:
            if spec.kind == "shard":
                await self._serve_shard(command, spec)
                return Copied(command.op, spec.nbytes, time.perf_counter() - began)
            if command.source == NETWORK:
                return await self._fetch(command, spec)
            offer = await self._offer(command, spec)
            if command.target.tier is Tier.VRAM:
                copy_s = await self._attach(command, spec, offer)
                self._account(command, offer.nbytes, time.perf_counter() - began, copy_s)
            else:
                store = self.crew.stores[command.target.node]
                call = store.pull.remote(command.item, command.target.tier, offer, self.epoch)
                await reach(call, f"store:{command.target.node}", COPY_S)
        except TierceError as error:
            return CopyFailed(command.op, error.code, error.message, isinstance(error, UserError))
        return Copied(command.op, offer.nbytes, time.perf_counter() - began)

    async def _fetch(self, command: Copy, spec: Spec) -> Event:
        """Have the target's Store fetch an adapter from its address again; it checks that it is the same."""
        began, node = time.perf_counter(), command.target.node
        digest = command.item.partition("@")[2]
        call = self.crew.stores[node].fetch.remote(
            command.item, self.crew.origin(spec.name), digest, self.epoch
        )
        await reach(call, f"store:{node}", FETCH_S)
        return Copied(command.op, spec.nbytes, time.perf_counter() - began)

    async def _offer(self, command: Copy, spec: Spec) -> Offer:
        """Get a reference to the image from its source."""
        node = command.source.node
        origin = self.crew.origin(spec.name)
        call = self.crew.stores[node].offer.remote(
            command.item, command.source.tier, spec.digest, origin, self.epoch, to=command.target.node
        )
        offer: Offer = await reach(call, f"store:{node}", COPY_S)
        if offer.mended:
            self.journal.tell(command.item, f"built again from its source: {offer.mended}", time.time())
        return offer

    async def mend(self, spec: Spec) -> str:
        """Have an adapter's missing durable copy built again from its source; return why it is not, or ""."""
        try:
            call = self.crew.stores[spec.durable.node].mend.remote(
                spec.item, self.crew.origin(spec.name), self.epoch
            )
            await reach(call, f"store:{spec.durable.node}", MEND_S)
        except TierceError as error:
            return f"{error}; {error.hint}" if error.hint else str(error)
        self.journal.tell(spec.item, "its file was gone; built again from its source", time.time())
        return ""

    async def _attach(self, command: Copy, spec: Spec, offer: Offer) -> float:
        verify = command.source.node != command.target.node
        name = self.crew.engine_in(spec.base, command.target)
        call = self.crew.engines[name].attach.remote(command.item, offer, self.epoch, verify=verify)
        seated: Seated = await reach(call, f"engine:{name}", COPY_S)
        if seated.proof:
            task = asyncio.create_task(self._prove(command, spec, seated.proof))
            self._proving.add(task)
            task.add_done_callback(self._proving.discard)
        return seated.attached.took_s

    async def _prove(self, command: Copy, spec: Spec, key: str) -> None:
        """Have the proof that an image has an effect kept with it, while the activation goes on.

        Told to the node that it came from, and to that of its durable copy; one that gets lost is made anew.
        """
        for node in dict.fromkeys((command.source.node, spec.durable.node)):
            if node in self.crew.stores:
                call = self.crew.stores[node].prove.remote(command.item, spec.digest, key, self.epoch)
                try:
                    await reach(call, f"store:{node}", COPY_S)
                except TierceError as error:
                    self.journal.tell(command.item, f"its proof is not kept on {node}: {error}", time.time())

    def _account(self, command: Copy, nbytes: int, total_s: float, copy_s: float) -> None:
        source = str(command.source.tier)
        self.activated[command.item] = (time.monotonic(), Activation(source, nbytes, total_s, copy_s))
        self.journal.activated(Activated(time.time(), command.item, source, nbytes, total_s, copy_s))

    async def _serve_shard(self, command: Copy, spec: Spec) -> None:
        call = self.crew.shards[spec.name].serve_from.remote(command.target.tier, self.epoch)
        await reach(call, f"shard:{spec.name}", COPY_S)

    async def _drop(self, command: Drop, spec: Spec) -> Event:
        item, place = command.item, command.place
        try:
            if spec.kind == "shard":
                if spec.name not in self.crew.shards:  # it has left the lab, and what it held with it
                    return Dropped(command.op)
                call = self.crew.shards[spec.name].leave.remote(place.tier, self.epoch)
                await reach(call, f"shard:{spec.name}", COPY_S)
            elif place.tier is Tier.VRAM:
                name = self.crew.engine_in(spec.base, place)
                call = self.crew.engines[name].detach.remote(item, self.epoch, DRAIN_S)
                await reach(call, f"engine:{name}", DRAIN_S + COPY_S)
            else:
                call = self.crew.stores[place.node].drop.remote(item, place.tier, self.epoch)
                await reach(call, f"store:{place.node}", COPY_S)
        except Busy as error:
            self.journal.tell(item, str(error), time.time())
            return DropRefused(command.op, 1)
        except TierceError as error:
            self.journal.tell(item, f"not dropped: {error}", time.time())
            return DropRefused(command.op, 0)
        return Dropped(command.op)
