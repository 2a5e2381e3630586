"""The Store of a node: its RAM tier (images in the object store) and its SSD tier (files named by digest).

The Store puts each image itself, so that an image and its owner live and die together on one node.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import ray

from actors.errors import StaleEpoch
from actors.gauges import disk_gauge, ram_gauges, store_gauge
from actors.intake import Intake, Origin
from actors.lm.files import ImageFiles
from actors.lm.image import image_digest
from actors.lm.image_file import Stamp, opened
from actors.lm.loader import Bucket
from actors.lm.source import Watched
from actors.survey import Foreseen, foreseen_base, foreseen_index
from placement.errors import WorldError
from placement.tiers import Tier

if TYPE_CHECKING:
    import numpy as np

    from actors.lm.prepare import Prepared
    from actors.lm.source import Kept
    from placement.state import Gauge

__all__ = ["Offer", "Origin", "Store", "Stored"]


#: One image is hashed again in this time, at this rate, and none before its last check is that long ago.
SCRUB_EVERY_S = 60.0
SCRUB_NBYTES_PER_S = 50_000_000
SCRUB_AGE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Offer:
    """One image, offered to another place: bytes in the object store, or a file for who is on the same node.

    A reference in a list (so that Ray does not resolve it on the way); none if there is a `path`. The file
    with that `stamp` has been verified.
    """

    refs: list[ray.ObjectRef[Any]]
    nbytes: int
    digest: str
    #: why the image had to be built again from its source before it could be offered; "" if it had not
    mended: str = ""
    path: str = ""
    stamp: Stamp | None = None
    #: keys of the engines in which the image has had an effect
    proven: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """What a node's Store reports: bytes per item in each tier, and what the machine has.

    `fetching` is what is set aside for each source on its way, by role and address; a gauge's `others` is all
    that is taken besides the images of `ram` and `ssd`.
    """

    pid: int
    rss: int
    started: bool
    ram: dict[str, int]
    ssd: dict[str, int]
    fetching: dict[str, int]
    ssd_free: int
    ram_total: int
    gauges: dict[Tier, tuple[Gauge, ...]]
    #: items whose file a scrub found damaged and set aside, and what it found; until they are here again
    damaged: dict[str, str] = field(default_factory=dict)


class Store:
    """Plain class; `actors.crew` wraps it as the actor `store:<node>`. `epoch` fences every command.

    `store_capacity` is the size of the node's object store (0: not known, and then not watched).
    """

    def __init__(self, node: str, root: str, budget: int | None, store_capacity: int = 0) -> None:
        self.node = node
        self.root = Path(root).expanduser()
        self.budget = budget
        self.store_capacity = store_capacity
        self.epoch = 0
        self._files: ImageFiles | None = None
        self._taking: Intake | None = None
        self._watched = Watched()
        #: item -> (reference that this process owns, pinned view of the bytes)
        self._ram: dict[str, tuple[ray.ObjectRef[Any], np.ndarray]] = {}
        #: items whose file is being built again
        self._mending: set[str] = set()
        self._damaged: dict[str, str] = {}
        self._scrubbing: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Open the SSD tier, and scrub it from now on; safe to call again.

        Raises WorldError if the folder cannot be used.
        """
        async with self._starting:
            if self._files is None:
                self._files = await asyncio.to_thread(ImageFiles, self.root, self.budget)
                self._scrubbing = asyncio.create_task(self._scrub())

    async def _scrub(self) -> None:
        while True:
            await asyncio.sleep(SCRUB_EVERY_S)
            await self.scrub(time.time() - SCRUB_AGE_S)

    async def scrub(self, before_s: float) -> None:
        """Hash the image whose last check is longest ago, if that was before `before_s` (clock on the wall).

        A damaged one is set aside, and the next beat tells of it.
        """
        files = await self.files()
        try:
            found = await asyncio.to_thread(files.scrub_next, Bucket(SCRUB_NBYTES_PER_S), before_s)
        except WorldError:  # the disk takes no sidecar now: told to whoever has to write, hashed again later
            return
        if found is not None:
            self._damaged[found[0]] = found[1]

    async def files(self) -> ImageFiles:
        await self.start()
        if self._files is None:
            raise WorldError("STO001", f"the SSD tier at {self.root} is not open")
        return self._files

    async def _intake(self) -> Intake:
        files = await self.files()
        self._taking = self._taking or Intake(files)
        return self._taking

    def fence(self, epoch: int) -> None:
        """Refuse a command of an older coordinator; remember a newer one."""
        if epoch < self.epoch:
            raise StaleEpoch("TRC029", f"store {self.node} follows epoch {self.epoch}, not {epoch}")
        self.epoch = epoch

    async def prepare(self, origin: Origin) -> tuple[str, Prepared, Kept]:
        """Read and check an adapter, keep its image on the SSD tier; return it, and how its source stays.

        What was found comes without the image's bytes. Raises as `Intake.take`.
        """
        stamps = await asyncio.to_thread(self._watched.stamps, origin.lora_path)
        taken = await (await self._intake()).take(origin)
        await asyncio.to_thread(self._watched.note, origin.lora_path, stamps, taken[1].digest)
        return taken

    async def present_digest(self, lora_path: str) -> str:
        """Return the digest of the version that an adapter's directory holds now; "" for what is none."""
        return await asyncio.to_thread(self._watched.digest, lora_path)

    async def look_at(self, origin: Origin) -> tuple[str, Prepared] | None:
        """Read and check an adapter and keep nothing; None for one at an address. Raises as `prepare`."""
        return await (await self._intake()).look_at(origin)

    async def base_sizes(self, model: str, wants: Foreseen) -> Foreseen:
        """Return what an engine of `model` would take here. Raises UserError LM010 for what is no base."""
        return await asyncio.to_thread(foreseen_base, model, wants)

    async def index_nbytes(self, source: str) -> int:
        """Return how large the index of these documents is likely to be. Raises UserError RAG010."""
        return await asyncio.to_thread(foreseen_index, source)

    async def fetch(self, item: str, origin: Origin, digest: str, epoch: int) -> Prepared:
        """Bring the image of a version that rests at an address to the SSD tier; `digest` is its source's.

        Raises as `Intake.fetch`: AdapterError ADP034 if the address gives another version now.
        """
        self.fence(epoch)
        return await (await self._intake()).fetch(item, origin, digest)

    async def offer(
        self, item: str, tier: Tier, digest: str, origin: Origin, epoch: int, *, to: str = ""
    ) -> Offer:
        """Offer the image at `tier`, a reference or, to node `to` if that is this one, a file.

        A file that is not the one that was verified last is hashed. One that is damaged or missing is built
        again from `origin` first, and `mended` says why.
        """
        self.fence(epoch)
        files, mended = await self.files(), ""
        if tier is Tier.RAM:
            if item not in self._ram:
                raise WorldError(
                    "STO004", f"{item} is not in the RAM of {self.node}", "the next beat corrects it"
                )
            ref, view = self._ram[item]
            proven = await asyncio.to_thread(files.proven, item, digest)
            return Offer([ref], view.nbytes, digest, proven=proven)
        try:
            path, told = await asyncio.to_thread(files.verified, item)
        except WorldError as error:
            if error.code not in {"STO001", "STO002"}:
                raise
            mended = str(error)
            await self.mend(item, origin, epoch)
            path, told = await asyncio.to_thread(files.verified, item)
        if to == self.node:
            return Offer([], told.nbytes, digest, mended, str(path), told.verified, told.proven)
        image = await asyncio.to_thread(files.get, item)
        return Offer([ray.put(image)], image.nbytes, digest, mended, proven=told.proven)

    async def prove(self, item: str, digest: str, key: str, epoch: int) -> None:
        """Remember that the image of that digest has an effect in the engine of `key`, if it is here."""
        self.fence(epoch)
        await asyncio.to_thread((await self.files()).prove, item, digest, key)

    async def mend(self, item: str, origin: Origin, epoch: int) -> None:
        """Build the SSD image of an item again from its source; until then it counts as here.

        Raises as `Intake.mend`.
        """
        self.fence(epoch)
        self._mending.add(item)
        try:
            await (await self._intake()).mend(item, origin)
        finally:
            self._mending.discard(item)

    async def pull(self, item: str, tier: Tier, offer: Offer, epoch: int) -> None:
        """Take the offered image into `tier`, verify its digest. Idempotent."""
        self.fence(epoch)
        if tier is Tier.RAM and item in self._ram:
            return
        if offer.path:
            image = await asyncio.to_thread(_read, offer)
        else:
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
            self._damaged.pop(item, None)
            await asyncio.to_thread((await self.files()).drop, item)

    async def beat(self) -> Stored:
        """Report what is here now. The SSD tier is empty in the report until the Store has started."""
        files = self._files
        inventory = {} if files is None else await asyncio.to_thread(files.inventory)
        self._damaged = {item: why for item, why in self._damaged.items() if item not in inventory}
        where = self.root if self.root.exists() else Path.home()
        ram = {item: view.nbytes for item, (_, view) in self._ram.items()}
        return Stored(
            pid=os.getpid(),
            rss=psutil.Process().memory_info().rss,
            started=files is not None,
            ram=ram,
            ssd=inventory | dict.fromkeys(self._mending, 0),
            fetching={} if files is None else files.fetching(),
            ssd_free=shutil.disk_usage(where).free,
            ram_total=psutil.virtual_memory().total,
            gauges=self._gauges(where, sum(ram.values()), sum(inventory.values())),
            damaged=self._damaged,
        )

    def _gauges(self, where: Path, ram: int, ssd: int) -> dict[Tier, tuple[Gauge, ...]]:
        store = (store_gauge(self.store_capacity, ram),) if self.store_capacity else ()
        return {Tier.RAM: (*ram_gauges(ram), *store), Tier.SSD: (disk_gauge(where, ssd),)}


def _read(offer: Offer) -> np.ndarray:
    """Return the bytes of an offered file."""
    with opened(Path(offer.path), offer.stamp) as image:
        return image.copy()
