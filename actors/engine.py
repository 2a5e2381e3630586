"""The Engine of a base on a device.

The shell of `lm.decoder.Decoder`, and the authority on what is in VRAM.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from actors.errors import StaleEpoch
from actors.lm.hub import locate
from actors.lm.image import image_digest
from placement.errors import Busy, WorldError

if TYPE_CHECKING:
    from actors.lm.decoder import Decoder
    from actors.lm.request import Attached, Delta, Request, SlotUse
    from actors.store import Offer

POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine is built from; `model` is a directory or hub id, sizes are bytes."""

    base: str
    model: str
    device: str
    dtype: str
    slots: int
    max_rank: int
    kv_nbytes: int
    threads: int
    deterministic: bool


@dataclass(frozen=True, slots=True)
class Decoding:
    """What an engine reports: its slots, the bytes that its base, KV cache and one slot take, and its `room`.

    That is the most tokens that prompt and answer of one request may have.
    """

    pid: int
    rss: int
    started: bool
    device: str
    base_nbytes: int
    kv_nbytes: int
    slot_nbytes: int
    room: int
    slots: dict[str, SlotUse]
    #: those of `slots` that take no new request and leave when their last one ends
    closing: frozenset[str]


class Engine:
    """Plain class; `actors.crew` wraps it as the actor `engine:<base>`. `epoch` fences every command."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.epoch = 0
        self._decoder: Decoder | None = None
        self._starting = asyncio.Lock()
        self._closing: set[str] = set()

    async def start(self) -> Decoding:
        """Load the base, in a thread, if no living decoder has it; safe to call again.

        Raises a typed error if the base cannot be loaded.
        """
        await self.decoder()
        return await self.beat()

    async def decoder(self) -> Decoder:
        async with self._starting:
            if self._decoder is not None and not self._decoder.alive:
                self._decoder = None  # its slots and cache are freed before the next one takes theirs
            if self._decoder is None:
                from actors.lm.decoder import Decoder  # torch, which nobody who only calls us should load

                spec = self.spec
                self._decoder = await asyncio.to_thread(
                    Decoder.load,
                    await asyncio.to_thread(locate, spec.model),
                    device=spec.device,
                    dtype=spec.dtype,
                    slots=spec.slots,
                    max_rank=spec.max_rank,
                    kv_nbytes=spec.kv_nbytes,
                    threads=spec.threads,
                    deterministic=spec.deterministic,
                )
            return self._decoder

    def fence(self, epoch: int) -> None:
        """Refuse a command of an older coordinator; remember a newer one."""
        if epoch < self.epoch:
            raise StaleEpoch("TRC029", f"engine {self.spec.base} follows epoch {self.epoch}, not {epoch}")
        self.epoch = epoch

    async def attach(self, item: str, offer: Offer, epoch: int, *, verify: bool) -> Attached:
        """Copy the offered image into a free slot; `verify` re-hashes bytes that came from another node.

        Idempotent.
        """
        self.fence(epoch)
        decoder = await self.decoder()
        image = await offer.refs[0]
        if verify and await asyncio.to_thread(image_digest, image) != offer.digest:
            raise WorldError(
                "STO002", f"{item} arrived at engine {self.spec.base} damaged", "it will be copied again"
            )
        return await asyncio.to_thread(decoder.attach, item, image)

    async def detach(self, item: str, epoch: int, drain_s: float) -> None:
        """Take no new request for `item`, wait for those in flight, free its slot.

        Raises Busy if some are still running after `drain_s`, StaleEpoch if a newer coordinator commands
        meanwhile; the item then serves on.
        """
        self.fence(epoch)
        decoder = await self.decoder()
        if item not in decoder.attached():
            return
        decoder.close(item)
        self._closing.add(item)
        try:
            await self._drain(decoder, item, epoch, drain_s)
        finally:
            self._closing.discard(item)

    async def _drain(self, decoder: Decoder, item: str, epoch: int, drain_s: float) -> None:
        give_up = time.monotonic() + drain_s
        while (use := decoder.attached().get(item)) is not None and use.leases:
            if self.epoch != epoch:
                decoder.reopen(item)
                self.fence(epoch)
            if time.monotonic() >= give_up:
                decoder.reopen(item)
                raise Busy("TRC011", f"{item} still answers {use.leases} requests after {drain_s:.0f} s")
            await asyncio.sleep(POLL_S)
        if use is not None:
            await asyncio.to_thread(decoder.detach, item)

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream the answer of `request.item`; raises Cold before the first piece if it has no slot."""
        decoder = await self.decoder()
        async for delta in decoder.generate(request):
            yield delta

    async def beat(self) -> Decoding:
        """Report the slots as they are now; none before the base is loaded and after its decoder has died."""
        decoder = self._decoder if self._decoder is not None and self._decoder.alive else None
        return Decoding(
            pid=os.getpid(),
            rss=psutil.Process().memory_info().rss,
            started=decoder is not None,
            device=str(decoder.device) if decoder else self.spec.device,
            base_nbytes=decoder.base_nbytes if decoder else 0,
            kv_nbytes=decoder.kv_nbytes if decoder else 0,
            slot_nbytes=decoder.slot_nbytes if decoder else 0,
            room=decoder.room if decoder else 0,
            slots=decoder.attached() if decoder else {},
            closing=frozenset(self._closing),
        )

    async def close(self) -> None:
        if self._decoder is not None:
            await asyncio.to_thread(self._decoder.stop)
