"""The Engine of a base on a device.

The shell of `lm.decoder.Decoder` and of `lm.vectors.Held`, and the authority on what is in VRAM.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from actors.errors import StaleEpoch
from actors.gauges import vram_gauge
from actors.lm.base import BaseShape, base_shape
from actors.lm.hub import locate
from actors.lm.image import image_digest
from actors.lm.image_file import opened
from actors.uses import Use, Uses
from placement.errors import Busy, Cold, WorldError

if TYPE_CHECKING:
    import numpy as np
    import ray

    from actors.lm.decoder import Decoder
    from actors.lm.request import Attached, Delta, HeldUse, Request, SlotUse
    from actors.lm.stats import Stats
    from actors.lm.vectors import Held
    from actors.store import Offer
    from placement.state import Gauge

POLL_S = 0.02
#: What a process that ends has left to hand out the errors of its requests.
LAST_WORDS_S = 0.5
#: What of a base's folder a role needs to write prompts for it.
CHAT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine is built from; `model` is a directory or hub id, sizes are bytes.

    `vram` is the budget of the device, or those of the node's devices by name; None if none is told.
    """

    base: str
    model: str
    device: str
    dtype: str
    slots: int
    max_rank: int
    kv_nbytes: int
    threads: int
    deterministic: bool
    kernels: str = "auto"
    slot_dtype: str = "float32"
    vram: int | Mapping[str, int] | None = None
    #: the folder in which the node keeps what engines measured; "" for none
    kept: str = ""


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
    #: the shards whose vectors are here, by item
    held: dict[str, HeldUse] = field(default_factory=dict)
    #: bytes that this process has taken of the device: base, KV cache, slots, vectors, scratch
    memory: int = 0
    #: what is known of the device's memory, where it can be measured
    gauge: Gauge | None = None
    #: what its decoder tells of itself: who answers and waits, how fast, and for how long it has not moved
    stats: Stats | None = None
    #: what it answered of late and was not heard of
    uses: tuple[Use, ...] = ()


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What a node without the base's files needs of it: its shape, and CHAT_FILES by name."""

    shape: BaseShape
    chat: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Seated:
    """What attaching did; `proof` is the key of the engine if the image has now had an effect there."""

    attached: Attached
    proof: str


class Engine:
    """Plain class; `actors.crew` wraps it as the actor `engine:<base>`. `epoch` fences every command."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.epoch = 0
        self._decoder: Decoder | None = None
        self._starting = asyncio.Lock()
        self._ending = False
        self._closing: set[str] = set()
        self._held: dict[str, Held] = {}
        self._uses = Uses()
        self._holding = asyncio.Lock()

    async def start(self) -> Decoding:
        """Load the base, in a thread, if no living decoder has it; safe to call again.

        Raises a typed error if the base cannot be loaded.
        """
        await self.decoder()
        return await self.beat()

    async def decoder(self) -> Decoder:
        async with self._starting:
            self._end_if_stuck()
            if self._decoder is not None and not self._decoder.alive:
                self._decoder = None  # its slots and cache are freed before the next one takes theirs
            if self._decoder is None:
                self._decoder = await asyncio.to_thread(_load, self.spec)
            return self._decoder

    def _end_if_stuck(self) -> None:
        """End this process soon if its decoder hangs: a thread cannot be ended, and Ray starts it again."""
        if self._decoder is not None and self._decoder.stuck and not self._ending:
            self._ending = True
            told = (
                f"engine {self.spec.base}: its decoder hangs in a step; the process ends to be started again"
            )
            print(told, file=sys.stderr, flush=True)  # noqa: T201 -- Ray keeps what an actor prints
            asyncio.get_running_loop().call_later(LAST_WORDS_S, os._exit, os.EX_SOFTWARE)

    def fence(self, epoch: int) -> None:
        """Refuse a command of an older coordinator; remember a newer one."""
        if epoch < self.epoch:
            raise StaleEpoch("TRC029", f"engine {self.spec.base} follows epoch {self.epoch}, not {epoch}")
        self.epoch = epoch

    async def attach(self, item: str, offer: Offer, epoch: int, *, verify: bool) -> Seated:
        """Copy the offered image into a free slot; `verify` re-hashes bytes that came from another node.

        Idempotent. Raises WorldError STO001 or STO002 for an offered file that is gone or not the one that
        was verified, STO002 for damaged bytes, and what `Decoder.attach` raises.
        """
        self.fence(epoch)
        decoder = await self.decoder()
        proven = decoder.key in offer.proven
        if offer.path:
            attached = await asyncio.to_thread(_attach_file, decoder, item, offer, proven=proven)
        else:
            image = await offer.refs[0]
            if verify and await asyncio.to_thread(image_digest, image) != offer.digest:
                raise WorldError(
                    "STO002", f"{item} arrived at engine {self.spec.base} damaged", "it will be copied again"
                )
            attached = await asyncio.to_thread(decoder.attach, item, image, proven=proven)
        return Seated(attached, "" if proven or not attached.nbytes else decoder.key)

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
        with self._uses.of(request):
            async for delta in decoder.generate(request):
                yield delta

    async def hold(self, item: str, refs: list[ray.ObjectRef[Any]], epoch: int, version: int = 0) -> HeldUse:
        """Hold the vectors [rows, dim] of a shard, a reference in a list, in place of those held before.

        Searches of the old ones end in Cold. Raises WorldError LM012 without room on the device.
        """
        self.fence(epoch)
        decoder = await self.decoder()
        from actors.lm.vectors import Held

        async with self._holding:
            vectors = await refs[0]
            self._held.pop(item, None)  # never both at the same time: the room is for one
            self._held[item] = await asyncio.to_thread(Held.load, vectors, decoder.device, version)
            return self._held[item].use

    async def search_held(
        self, item: str, vector: np.ndarray, k: int, version: int = 0
    ) -> list[tuple[int, float]]:
        """Return the `k` rows nearest to `vector` [dim] with their scores, best first.

        Raises Cold if the shard, or this version of it, is not held here now.
        """
        held = self._held.get(item)
        if held is None or held.version != version:
            raise Cold("TRC010", f"version {version} of {item} is not in engine {self.spec.base}")
        return await held.search(vector, k)

    async def release(self, item: str, epoch: int) -> None:
        """Hold the shard no longer; searches under way are answered. Idempotent."""
        self.fence(epoch)
        async with self._holding:
            held = self._held.pop(item, None)
            if held is None:
                return
            await held.drained()
            del held
            if self._decoder is not None:
                from actors.lm.vectors import give_back

                await asyncio.to_thread(give_back, self._decoder.device)

    async def anatomy(self) -> Anatomy:
        """Return the base's shape and chat files. Raises UserError LM010 if it cannot be read."""

        def read() -> Anatomy:
            root = Path(locate(self.spec.model))
            files = [root / name for name in CHAT_FILES]
            chat = {file.name: file.read_bytes() for file in files if file.is_file()}
            return Anatomy(base_shape(str(root)), chat)

        return await asyncio.to_thread(read)

    async def beat(self, heard: tuple[int, int] = (0, 0), *, full: bool = True) -> Decoding:
        """Report the slots as they are now; none before the base is loaded and after its decoder has died.

        `heard` is what `Uses.told` leaves out; without `full` nothing is measured or told of answers.
        """
        self._end_if_stuck()
        decoder = self._decoder if self._decoder is not None and self._decoder.alive else None
        device = str(decoder.device) if decoder else self.spec.device
        memory = self._memory(decoder)
        return Decoding(
            pid=os.getpid(),
            rss=psutil.Process().memory_info().rss,
            started=decoder is not None,
            device=device,
            base_nbytes=decoder.base_nbytes if decoder else 0,
            kv_nbytes=decoder.kv_nbytes if decoder else 0,
            slot_nbytes=decoder.slot_nbytes if decoder else 0,
            room=decoder.room if decoder else 0,
            slots=decoder.attached() if decoder else {},
            closing=frozenset(self._closing),
            held={item: held.use for item, held in self._held.items()},
            memory=memory,
            gauge=await asyncio.to_thread(vram_gauge, device, memory) if decoder and full else None,
            stats=decoder.stats() if decoder and full else None,
            uses=self._uses.told(heard) if full else (),
        )

    def _memory(self, decoder: Decoder | None) -> int:
        """Return the bytes that are taken of the device; on a CPU the sum of what we know of."""
        held = sum(held.use.nbytes for held in self._held.values())
        if decoder is None:
            return held
        from actors.lm.vectors import reserved

        shadows = sum(use.nbytes for use in decoder.attached().values())
        slots = decoder.slot_nbytes * self.spec.slots + shadows
        known = decoder.base_nbytes + decoder.kv_nbytes + slots + held
        counted = reserved(decoder.device)
        return known if counted is None else counted

    async def close(self) -> None:
        if self._decoder is not None:
            await asyncio.to_thread(self._decoder.stop)


def _load(spec: EngineSpec) -> Decoder:
    """Load a decoder that keeps within the budget of its device."""
    from actors.lm.allowance import keep_within  # torch, which nobody who only calls us should load
    from actors.lm.decoder import Decoder

    path = locate(spec.model)
    keep_within(spec.device, spec.vram)
    return Decoder.load(
        path,
        device=spec.device,
        dtype=spec.dtype,
        slots=spec.slots,
        max_rank=spec.max_rank,
        kv_nbytes=spec.kv_nbytes,
        threads=spec.threads,
        deterministic=spec.deterministic,
        kernels=spec.kernels,
        slot_dtype=spec.slot_dtype,
        kept=spec.kept,
    )


def _attach_file(decoder: Decoder, item: str, offer: Offer, *, proven: bool) -> Attached:
    """Copy an image from its file into a slot: one read, which is the copy."""
    with opened(Path(offer.path), offer.stamp) as image:
        return decoder.attach(item, image, proven=proven)
