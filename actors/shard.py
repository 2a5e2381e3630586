"""The Shard actor: one RAG shard in its own process; the shell of `rag.shelf.Shelf`.

The engine inside holds the GIL for each call, so a shard has a process of its own. The log on SSD is the
shard's durable truth; the index lies where the shard's tier says, and can be built again from the log at any
time.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import ray

from actors.errors import StaleEpoch, Unreachable, reach
from actors.rag.ingest import ingest
from actors.rag.shelf import Shelf
from placement.errors import UserError, WorldError
from placement.tiers import Tier

if TYPE_CHECKING:
    from actors.rag.prompt import Passage

ENCODE_S = 600.0
#: How long a search waits for a shard that has just been started again.
OPEN_S = 20.0
#: Passages in one call to the embedder: enough for a batch, few enough that a question gets between.
BATCH = 32


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """Where a shard's log and its index in each tier lie on its node, and where its documents come from."""

    name: str
    lab: str
    embedder: str
    source: str
    tier: Tier
    log_dir: str
    index_dirs: dict[Tier, str]
    #: the lab's own folder in RAM, shared by its shards: what `close` leaves nothing in
    ram_folder: str


@dataclass(frozen=True, slots=True)
class Shelved:
    """What a shard reports: sizes in bytes, counts, and the tier whose index answers now, if one does."""

    pid: int
    rss: int
    tier: Tier | None
    nbytes: int
    points: int
    searches: int
    leases: int
    idle_s: float
    digest: str


@dataclass(frozen=True, slots=True)
class Ingested:
    """What one ingestion did; `skipped` names each file that was left out and why."""

    documents: int
    chunks: int
    unchanged: int
    nbytes: int
    skipped: tuple[str, ...]


class Shard:
    """Plain class; `actors.crew` wraps it as the actor `shard:<name>`. `epoch` fences every command."""

    def __init__(self, spec: ShardSpec) -> None:
        self.spec = spec
        self.epoch = 0
        self._shelf: Shelf | None = None
        self._opened = asyncio.Event()
        self._opening = asyncio.Lock()
        self._searches = 0
        self._searching = 0
        self._used_s = time.monotonic()

    async def ingest(self) -> Ingested:
        """Open the shard at its home and bring it to the content of its source.

        Running it again changes nothing. Raises UserError TRC062 for a shard without a source that has never
        had one: an index alone cannot be opened.
        """
        if not self.spec.source and not (Path(self.spec.log_dir) / "ops.log").exists():
            raise UserError(
                "TRC062",
                f"rag.{self.spec.name} has no source, and no documents are in {self.spec.log_dir}",
                "name the folder of its documents: source: DIR",
            )
        shelf = await self._open(self.spec.tier)
        if not self.spec.source:
            stats = await asyncio.to_thread(shelf.stats)
            return Ingested(stats.documents, 0, stats.documents, stats.nbytes, ())
        loop = asyncio.get_running_loop()

        def encode(texts: list[str]) -> np.ndarray:
            return asyncio.run_coroutine_threadsafe(self._encode(texts), loop).result()

        try:
            report = await asyncio.to_thread(ingest, self.spec.source, shelf, encode)
            await asyncio.to_thread(shelf.checkpoint)
        except WorldError as error:
            if error.code == "RAG006":  # it takes no more writes: the next try opens it anew
                await self._shut()
            raise
        stats = await asyncio.to_thread(shelf.stats)
        skipped = tuple(map(str, report.skipped))
        return Ingested(stats.documents, report.chunks, report.unchanged, stats.nbytes, skipped)

    async def _encode(self, texts: list[str]) -> np.ndarray:
        """Return unit vectors [len(texts), dim] from the node's embedder."""
        embedder = self._embedder()
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))  # alike lengths waste no padding
        vectors: list[np.ndarray] = [np.empty(0)] * len(texts)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            call = embedder.encode.remote([texts[at] for at in batch])
            for at, vector in zip(batch, await reach(call, self.spec.embedder, ENCODE_S), strict=True):
                vectors[at] = vector
        return np.stack(vectors)

    def _embedder(self) -> Any:
        try:
            return ray.get_actor(self.spec.embedder, namespace=self.spec.lab)
        except ValueError as error:
            raise Unreachable(
                "TRC031", f"{self.spec.embedder} is not running", "run `tierce up` again"
            ) from error

    async def _open(self, tier: Tier) -> Shelf:
        """Open the shard, its index at `tier`; one that is open stays where it is."""
        async with self._opening:
            if self._shelf is None:
                spec = self.spec
                about = await reach(self._embedder().start.remote(), spec.embedder, ENCODE_S)
                self._shelf = await asyncio.to_thread(
                    Shelf.open,
                    spec.name,
                    spec.log_dir,
                    spec.index_dirs[tier],
                    tier,
                    about.dim,
                    about.fingerprint,
                )
                self._opened.set()
            return self._shelf

    def fence(self, epoch: int) -> None:
        """Refuse a command of an older coordinator; remember a newer one."""
        if epoch < self.epoch:
            raise StaleEpoch("TRC029", f"shard {self.spec.name} follows epoch {self.epoch}, not {epoch}")
        self.epoch = epoch

    async def serve_from(self, tier: Tier, epoch: int) -> None:
        """Have the index at `tier`: open it there, or move it there while searches go on. Idempotent."""
        self.fence(epoch)
        shelf = await self._open(tier)
        if (await asyncio.to_thread(shelf.stats)).tier is not tier:
            await asyncio.to_thread(shelf.rehome, self.spec.index_dirs[tier], tier)

    async def leave(self, tier: Tier, epoch: int) -> None:
        """Confirm that no index is at `tier`; a move has removed it already.

        Raises WorldError if it still answers.
        """
        self.fence(epoch)
        if self._shelf is not None and (await asyncio.to_thread(self._shelf.stats)).tier is tier:
            raise WorldError("RAG011", f"shard {self.spec.name} answers from {tier}; it has no other index")

    async def search(self, vector: np.ndarray, k: int) -> list[Passage]:
        """Return the `k` passages nearest to `vector` [dim], best first.

        A shard that was just born again is waited for. An index that turns out to be damaged is closed, to be
        built again from the log.
        """
        try:
            await asyncio.wait_for(self._opened.wait(), OPEN_S)
        except TimeoutError as error:
            raise WorldError(
                "RAG012", f"shard {self.spec.name} is not open yet", "ask again in a moment"
            ) from error
        shelf = await self._open(self.spec.tier)
        self._searching += 1
        try:
            return await asyncio.to_thread(shelf.search, vector, k)
        except WorldError as error:
            if error.code == "RAG006":
                await self._shut()
            raise
        finally:
            self._searching -= 1
            self._searches += 1
            self._used_s = time.monotonic()

    async def beat(self) -> Shelved:
        """Report what is here now."""
        shelf = self._shelf
        stats = None if shelf is None else await asyncio.to_thread(shelf.stats)
        return Shelved(
            pid=os.getpid(),
            rss=psutil.Process().memory_info().rss,
            tier=stats.tier if stats else None,
            nbytes=stats.nbytes if stats else 0,
            points=stats.points if stats else 0,
            searches=self._searches,
            leases=self._searching,
            idle_s=time.monotonic() - self._used_s,
            digest=stats.digest if stats else "",
        )

    async def _shut(self) -> None:
        async with self._opening:
            await self._let_go()

    async def _let_go(self) -> None:
        if self._shelf is not None:
            self._opened.clear()
            shelf, self._shelf = self._shelf, None
            await asyncio.to_thread(shelf.close)

    async def close(self) -> None:
        """Write the index's files down and let go of them; the lab's own folder in RAM is emptied."""
        async with self._opening:
            await self._let_go()
            await asyncio.to_thread(_clear, Path(self.spec.ram_folder), self.spec.name)


def _clear(folder: Path, name: str) -> None:
    """Remove a shard's index from its lab's folder in RAM, and the folder with the last of them."""
    shutil.rmtree(folder / name, ignore_errors=True)
    with suppress(OSError):  # another shard's index is still in it
        folder.rmdir()
