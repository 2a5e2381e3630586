"""Intake: how an adapter, in a directory or at an address, becomes an image on a node's SSD tier.

Parsing and building hold the GIL, so they happen in a child process. No Ray.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from actors.lm.fetch import shown
from actors.lm.header import AdapterError
from actors.lm.image import Dtype
from actors.lm.orphan import end_with
from actors.lm.prepare import described, largest, prepare
from actors.lm.source import Kept, at_address, fetch_source, how_kept, slug
from placement.errors import WorldError

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.lm.base import BaseShape
    from actors.lm.files import ImageFiles
    from actors.lm.prepare import Prepared

PREPARE_S = 600.0
#: Fetches at once; they have threads of their own, so that slow servers keep nothing else waiting.
FETCHES = 4
#: What is told of an image that is kept: its bytes leave the node by an offer only.
NO_IMAGE = np.empty(0, np.uint8)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Origin:
    """What an adapter's image is built from: its source, and the base that it is checked against.

    `lora_path` is a PEFT directory (absolute), a URL of a folder, or a hub id. `shape` is the base as its
    engine told it, for a node that does not have the base's files. `slot_dtype` is that of its slots.
    """

    role: str
    lora_path: str
    base_path: str
    max_rank: int
    shape: BaseShape | None = None
    slot_dtype: Dtype = "float32"


class Intake:
    """Takes adapters into `files`. To be used on one event loop."""

    def __init__(self, files: ImageFiles) -> None:
        self.files = files
        self._pool: ProcessPoolExecutor | None = None
        #: how many wait for the pool
        self._building = 0
        #: fetches that go on, by source and wanted digest: whoever wants the same waits for the same
        self._fetches: dict[tuple[str, str], asyncio.Task[tuple[str, Prepared]]] = {}
        self._threads = ThreadPoolExecutor(FETCHES, "fetch")
        #: one at a time may write the folder of a source
        self._sources: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def take(self, origin: Origin) -> tuple[str, Prepared, Kept]:
        """Read and check an adapter, keep its image; return (item, what was found, where its source stays).

        Raises AdapterError for an adapter that cannot serve the role on this base, STO003 for no room, and
        for an address what `fetch_source` raises. A fetch goes on when its caller gives up; others join it.
        """
        how = await asyncio.to_thread(how_kept, origin.lora_path)
        if how == "fetched":
            item, prepared = await self._fetched(origin, "")
            return item, prepared, Kept(shown(origin.lora_path), how)
        prepared = await self._build(origin, origin.lora_path)
        item, path = item_of(origin, prepared), origin.lora_path
        if how == "copied":
            path = await asyncio.to_thread(self.files.keep_source, item, path, prepared.digest)
        return item, await self._keep(item, prepared), Kept(path, how)

    async def look_at(self, origin: Origin) -> tuple[str, Prepared] | None:
        """Read and check an adapter as `take` does, and keep nothing; one at an address is not fetched: None.

        Raises AdapterError for an adapter that cannot serve the role on this base.
        """
        if await asyncio.to_thread(how_kept, origin.lora_path) == "fetched":
            return None
        prepared = await self._build(origin, origin.lora_path)
        return item_of(origin, prepared), replace(prepared, image=NO_IMAGE)

    async def fetch(self, item: str, origin: Origin, digest: str) -> Prepared:
        """Bring the image of a version that rests at an address here; nothing happens if it is here.

        `digest` is that of the source, or how it begins. Raises AdapterError ADP034 if the address gives
        another version now, and what `take` raises.
        """
        if item in await asyncio.to_thread(self.files.inventory):
            try:
                return replace(described(await asyncio.to_thread(self.files.get, item)), image=NO_IMAGE)
            except WorldError as error:
                if error.code not in {"STO001", "STO002", "LM004"}:
                    raise
        return (await self._fetched(origin, digest))[1]

    async def mend(self, item: str, origin: Origin) -> None:
        """Build the image of an item again: from the copy of its source that was kept, else from its source.

        Raises AdapterError ADP033 (a directory) or ADP034 (an address) if that holds another version now, or
        what else is wrong with it.
        """
        if await asyncio.to_thread(how_kept, origin.lora_path) == "fetched":
            await self.fetch(item, origin, item.partition("@")[2])
            return
        if await self._mended_from_copy(item, origin):
            return
        built, _, _ = await self.take(origin)
        if built != item:
            raise AdapterError(
                "ADP033",
                f"{item} is damaged, and {origin.lora_path} holds another version now ({built})",
                f"take it with `tierce update {origin.role}`, or put the old files back",
            )

    async def _mended_from_copy(self, item: str, origin: Origin) -> bool:
        copy = self.files.source(item)
        if not await asyncio.to_thread(copy.is_dir):
            return False
        try:
            prepared = await self._build(origin, str(copy))
        except AdapterError:
            prepared = None
        if prepared is None or item_of(origin, prepared) != item:
            await asyncio.to_thread(self.files.forget_source, copy.name)
            return False
        await self._keep(item, prepared)
        return True

    async def _fetched(self, origin: Origin, digest: str) -> tuple[str, Prepared]:
        """Wait for the one fetch of an address; start it if there is none."""
        key = (slug(origin.role, origin.lora_path), digest)
        if key not in self._fetches:
            task = self._fetches[key] = asyncio.ensure_future(self._bring(origin, digest))
            task.add_done_callback(partial(self._ended, key))
        return await asyncio.shield(self._fetches[key])

    def _ended(self, key: tuple[str, str], task: asyncio.Task[tuple[str, Prepared]]) -> None:
        del self._fetches[key]
        if not task.cancelled():
            task.exception()  # looked at, since all who waited may have given up

    async def _bring(self, origin: Origin, digest: str) -> tuple[str, Prepared]:
        """Fetch a source under the budget, build and keep its image, remove the source."""
        name = slug(origin.role, origin.lora_path)
        folder, reserve = self.files.sources / name, partial(self.files.reserve, name)
        async with self._sources[name]:
            most = await asyncio.to_thread(largest, origin.base_path, origin.max_rank, origin.shape)
            try:
                where = await asyncio.get_running_loop().run_in_executor(
                    self._threads, fetch_source, origin.lora_path, folder, most, reserve
                )
                prepared = await self._build(origin, where)
                if not prepared.digest.startswith(digest):
                    told = (
                        f"{shown(origin.lora_path)} gives version {prepared.digest[:12]}, not {digest[:12]}"
                    )
                    hint = f"take it with `tierce update {origin.role}`, or put the old files back"
                    raise AdapterError("ADP034", told, hint)
                item = item_of(origin, prepared)
                kept = await self._keep(item, prepared)
            except AdapterError as error:
                await asyncio.to_thread(self.files.forget_source, name)
                raise at_address(error, str(folder), origin.lora_path) from error
            finally:
                self.files.release(name)
            await asyncio.to_thread(self.files.forget_source, name)
        return item, kept

    async def _keep(self, item: str, prepared: Prepared) -> Prepared:
        """Put an image on the SSD tier; return what was found, without the bytes."""
        await asyncio.to_thread(self.files.put, item, prepared.image, prepared.image_digest)
        return replace(prepared, image=NO_IMAGE)

    async def _build(self, origin: Origin, where: str) -> Prepared:
        work = partial(prepare, where, origin.base_path, origin.max_rank, origin.shape, origin.slot_dtype)
        return await asyncio.wait_for(self._in_child(origin, work), PREPARE_S)

    async def _in_child(self, origin: Origin, work: Callable[[], T]) -> T:
        """Do `work` in a child process, which lives as long as there is anything to do."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1, mp_context=get_context("spawn"), initializer=end_with, initargs=(os.getpid(),)
            )
        pool = self._pool
        self._building += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except BrokenProcessPool as error:
            told = f"the process that read {shown(origin.lora_path)} was killed"
            raise WorldError("STO008", told, "is there memory enough?") from error
        finally:
            self._building -= 1
            if not self._building:
                self._pool = None
                pool.shutdown(wait=False)


def item_of(origin: Origin, prepared: Prepared) -> str:
    """Return the item of a version: the role and the beginning of its source's digest."""
    return f"{origin.role}@{prepared.digest[:12]}"
