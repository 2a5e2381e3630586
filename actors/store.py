"""The Store of a node: its RAM tier (images in the object store) and its SSD tier (files named by digest).

The Store puts each image itself, so that an image and its owner live and die together on one node. Parsing
and building images hold the GIL, so they happen in a child process.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import ray

from actors.errors import StaleEpoch
from actors.lm.files import ImageFiles
from actors.lm.header import AdapterError
from actors.lm.image import image_digest
from actors.lm.orphan import end_with
from actors.lm.prepare import prepare
from placement.errors import WorldError
from placement.tiers import Tier

if TYPE_CHECKING:
    import numpy as np

    from actors.lm.prepare import Prepared

PREPARE_S = 600.0


@dataclass(frozen=True, slots=True)
class Offer:
    """One image, offered to another place.

    A reference in a list (so that Ray does not resolve it on the way).
    """

    refs: list[ray.ObjectRef[Any]]
    nbytes: int
    digest: str
    #: why the image had to be built again from its source before it could be offered; "" if it had not
    mended: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """What an adapter's image is built from: its PEFT directory and the base that it is checked against."""

    role: str
    lora_path: str
    base_path: str
    max_rank: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What a node's Store reports: bytes per item in each tier, and what the machine has."""

    pid: int
    rss: int
    started: bool
    ram: dict[str, int]
    ssd: dict[str, int]
    ssd_free: int
    ram_total: int


class Store:
    """Plain class; `actors.crew` wraps it as the actor `store:<node>`. `epoch` fences every command."""

    def __init__(self, node: str, root: str, budget: int | None) -> None:
        self.node = node
        self.root = Path(root).expanduser()
        self.budget = budget
        self.epoch = 0
        self._files: ImageFiles | None = None
        #: item -> (reference that this process owns, pinned view of the bytes)
        self._ram: dict[str, tuple[ray.ObjectRef[Any], np.ndarray]] = {}
        #: items whose file is being built again
        self._mending: set[str] = set()
        self._pool: ProcessPoolExecutor | None = None
        #: how many wait for the pool
        self._building = 0
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Open the SSD tier; safe to call again. Raises WorldError if the folder cannot be used."""
        async with self._starting:
            if self._files is None:
                self._files = await asyncio.to_thread(ImageFiles, self.root, self.budget)

    async def files(self) -> ImageFiles:
        await self.start()
        if self._files is None:
            raise WorldError("STO001", f"the SSD tier at {self.root} is not open")
        return self._files

    def fence(self, epoch: int) -> None:
        """Refuse a command of an older coordinator; remember a newer one."""
        if epoch < self.epoch:
            raise StaleEpoch("TRC029", f"store {self.node} follows epoch {self.epoch}, not {epoch}")
        self.epoch = epoch

    async def prepare(self, origin: Origin) -> tuple[str, Prepared]:
        """Parse and check a PEFT directory, keep its image on the SSD tier; return (item, what was found).

        Raises AdapterError for a directory that cannot serve the role on this base.
        """
        prepared = await asyncio.wait_for(self._build(origin), PREPARE_S)
        item = f"{origin.role}@{prepared.digest[:12]}"
        files = await self.files()
        await asyncio.to_thread(files.put, item, prepared.image, prepared.image_digest)
        return item, prepared

    async def _build(self, origin: Origin) -> Prepared:
        """Run `prepare` in a child process, which lives as long as there is anything to prepare."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1, mp_context=get_context("spawn"), initializer=end_with, initargs=(os.getpid(),)
            )
        pool = self._pool
        self._building += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                pool, prepare, origin.lora_path, origin.base_path, origin.max_rank
            )
        except BrokenProcessPool as error:
            raise WorldError(
                "STO008", f"the process that read {origin.lora_path} was killed", "is there memory enough?"
            ) from error
        finally:
            self._building -= 1
            if not self._building:
                self._pool = None
                pool.shutdown(wait=False)

    async def offer(self, item: str, tier: Tier, digest: str, origin: Origin, epoch: int) -> Offer:
        """Offer the image at `tier`: a reference to bytes that lie on this node.

        Bytes read from disk are re-hashed. A file that is damaged or missing is built again from `origin`
        first, and `mended` says why.
        """
        self.fence(epoch)
        if tier is Tier.RAM:
            if item not in self._ram:
                raise WorldError(
                    "STO004", f"{item} is not in the RAM of {self.node}", "the next beat corrects it"
                )
            ref, view = self._ram[item]
            return Offer([ref], view.nbytes, digest)
        files, mended = await self.files(), ""
        try:
            image = await asyncio.to_thread(files.get, item)
        except WorldError as error:
            if error.code not in {"STO001", "STO002"}:
                raise
            mended = str(error)
            await self.mend(item, origin, epoch)
            image = await asyncio.to_thread(files.get, item)
        return Offer([ray.put(image)], image.nbytes, digest, mended)

    async def mend(self, item: str, origin: Origin, epoch: int) -> None:
        """Build the SSD image of an item again from its PEFT directory; until then it counts as here.

        Raises AdapterError ADP033 if the directory holds another version now, or what else is wrong with it.
        """
        self.fence(epoch)
        self._mending.add(item)
        try:
            built, _ = await self.prepare(origin)
        finally:
            self._mending.discard(item)
        if built != item:
            raise AdapterError(
                "ADP033",
                f"{item} is damaged, and {origin.lora_path} holds another version now ({built})",
                "put the old files back, or run `tierce down` and `tierce up`",
            )

    async def pull(self, item: str, tier: Tier, offer: Offer, epoch: int) -> None:
        """Take the offered image into `tier`, verify its digest. Idempotent."""
        self.fence(epoch)
        if tier is Tier.RAM and item in self._ram:
            return
        image = await offer.refs[0]
        if tier is Tier.SSD:
            await asyncio.to_thread((await self.files()).put, item, image, offer.digest)
            return
        found = await asyncio.to_thread(image_digest, image)
        if found != offer.digest:
            raise WorldError(
                "STO002", f"{item} arrived at {self.node} with digest {found[:12]}, not {offer.digest[:12]}"
            )
        ref = ray.put(image)
        self._ram[item] = (ref, await ref)

    async def drop(self, item: str, tier: Tier, epoch: int) -> None:
        """Let go of the copy at `tier`; nothing happens if there is none."""
        self.fence(epoch)
        if tier is Tier.RAM:
            self._ram.pop(item, None)
        else:
            await asyncio.to_thread((await self.files()).drop, item)

    async def beat(self) -> Stored:
        """Report what is here now. The SSD tier is empty in the report until the Store has started."""
        inventory = {} if self._files is None else await asyncio.to_thread(self._files.inventory)
        inventory |= dict.fromkeys(self._mending, 0)
        where = self.root if self.root.exists() else Path.home()
        return Stored(
            pid=os.getpid(),
            rss=psutil.Process().memory_info().rss,
            started=self._files is not None,
            ram={item: view.nbytes for item, (_, view) in self._ram.items()},
            ssd=inventory,
            ssd_free=shutil.disk_usage(where).free,
            ram_total=psutil.virtual_memory().total,
        )
