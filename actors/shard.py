"""The Shard actor: one RAG shard in its own process; the shell of `rag.shelf.Shelf`.

The engine inside holds the GIL for each call, so a shard has a process of its own. The log on SSD is the
shard's durable truth; the index lies where the shard's tier says, and can be built again from the log at any
time. A shard in VRAM has its index on SSD, and its vectors in an engine as well; one at an address has
neither, and is only read.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import ray

from actors.errors import StaleEpoch, Unreachable, reach
from actors.loft import Loft
from actors.rag.index import remove
from actors.rag.ingest import ingest
from actors.rag.link import Link, open_link
from actors.rag.matrix import unit
from actors.rag.remote import Remote
from actors.rag.shelf import Shelf
from actors.shard_spec import Ingested, ShardSpec, Shelved
from placement.errors import TierceError, UserError, WorldError
from placement.tiers import Tier

if TYPE_CHECKING:
    from actors.rag.prompt import Passage

__all__ = ["Ingested", "Shard", "ShardSpec", "Shelved"]

ENCODE_S = 600.0
#: How long a search waits for a shard that has just been started again.
OPEN_S = 20.0
#: Passages in one call to the embedder: enough for a batch, few enough that a question gets between.
BATCH = 32


class Shard:
    """Plain class; `actors.crew` wraps it as the actor `shard:<name>`. `epoch` fences every command."""

    def __init__(self, spec: ShardSpec) -> None:
        self.spec = spec
        self.epoch = 0
        self._shelf: Shelf | None = None
        self._opened = asyncio.Event()
        self._opening = asyncio.Lock()
        #: held while the index or its copy in VRAM changes places
        self._moving = asyncio.Lock()
        self._loft = Loft(spec.item, spec.engine, spec.lab) if spec.engine else None
        self._link: Link | None = None
        #: renews what is in VRAM, or asks a network shard how it is
        self._errand: asyncio.Task[None] | None = None
        self._ingesting = False
        self._problem = ""
        self._searches = 0
        #: of them, those from before the index came to where it lies
        self._earlier = 0
        self._searching = 0
        self._used_s = time.monotonic()

    async def ingest(self) -> Ingested:
        """Open the shard at its home and bring it to the content of its source.

        Running it again changes nothing. A shard in VRAM is opened on SSD, where its index is. Of a network
        shard only checks that it can be read. Raises UserError TRC062 for a shard without a source that has
        never had one: an index alone cannot be opened.
        """
        if self.spec.remote is not None:
            await self._reach_out()
            return Ingested(0, 0, 0, 0, ())
        if not self.spec.source and not (Path(self.spec.log_dir) / "ops.log").exists():
            index = self.spec.below(self.spec.tier)[1]
            raise UserError(
                "TRC062",
                f"rag.{self.spec.name} has no source, and no documents are in {self.spec.log_dir}; "
                f"an index alone, in {index}, cannot be opened",
                "name the folder of its documents: source: DIR",
            )
        shelf = await self._open(self.spec.tier)
        if not self.spec.source:
            stats = await asyncio.to_thread(shelf.stats)
            return Ingested(stats.documents, 0, stats.documents, stats.nbytes, ())
        loop = asyncio.get_running_loop()

        def encode(texts: list[str]) -> np.ndarray:
            return asyncio.run_coroutine_threadsafe(self._encode(texts), loop).result()

        self._ingesting = True
        try:
            report = await asyncio.to_thread(ingest, self.spec.source, shelf, encode)
            await asyncio.to_thread(shelf.checkpoint)
        except WorldError as error:
            if error.code == "RAG006":  # it takes no more writes: the next try opens it anew
                await self._shut()
            raise
        finally:
            self._ingesting = False
        await self._renew()
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
                    spec.below(tier)[1],
                    spec.below(tier)[0],
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
        """Have the shard at `tier`: open its index, move it there while searches go on. Idempotent.

        Raises WorldError RAG011 for VRAM without an engine, and for any tier but its own of a network shard.
        """
        self.fence(epoch)
        if self.spec.remote is not None:
            if tier is not Tier.NETWORK:
                raise WorldError("RAG011", f"shard {self.spec.name} is read where it is, not from {tier}")
            return
        if tier is Tier.NETWORK or (tier is Tier.VRAM and self._loft is None):
            raise WorldError("RAG011", f"shard {self.spec.name} has no place in {tier}")
        async with self._moving:
            shelf, loft = await self._open(tier), self._loft
            if loft is None or tier is not Tier.VRAM:
                await self._settle(shelf, tier)
                if loft is not None:
                    await loft.empty(epoch)
                return
            if loft.seq != shelf.seq or not await loft.check():
                await loft.fill(await asyncio.to_thread(shelf.matrix), epoch)
                self._problem = ""
            try:
                await self._settle(shelf, tier)
            except TierceError:
                await loft.empty(epoch)  # it has not moved: the index is where it was
                raise

    async def _settle(self, shelf: Shelf, tier: Tier) -> None:
        """Have the index where it lies while the shard is in `tier`."""
        below, folder = self.spec.below(tier)
        stats = await asyncio.to_thread(shelf.stats)
        if (stats.tier, Path(stats.index_dir)) != (below, Path(folder)):
            await asyncio.to_thread(shelf.rehome, folder, below)
            self._earlier = self._searches

    async def leave(self, tier: Tier, epoch: int) -> None:
        """Confirm that the shard is not at `tier`; a move has removed it already, and VRAM is given back now.

        Raises WorldError if its index still answers there: it has no other.
        """
        self.fence(epoch)
        if tier is Tier.VRAM and self._loft is not None:
            async with self._moving:
                await self._loft.empty(epoch)
            return
        if self._shelf is None or (self._loft is not None and self._loft.seq is not None):
            return
        if (await asyncio.to_thread(self._shelf.stats)).tier is tier:
            raise WorldError("RAG011", f"shard {self.spec.name} answers from {tier}; it has no other index")

    async def search(self, question: str, vector: np.ndarray | None, k: int) -> list[Passage]:
        """Return the `k` passages nearest to `vector` [dim], best first; a search API reads the question.

        A shard that was just born again is waited for. An index that turns out to be damaged is closed, to be
        built again from the log. What an engine does not answer, the index below does.
        """
        self._searching += 1
        try:
            if self.spec.remote is not None:
                return await self._linked(self.spec.remote).search(question, vector, k)
            if vector is None:
                raise UserError("RAG001", f"shard {self.spec.name} was asked without a vector")
            return await self._nearest(unit(vector, k), k)
        finally:
            self._searching -= 1
            self._searches += 1
            self._used_s = time.monotonic()

    async def _nearest(self, vector: np.ndarray, k: int) -> list[Passage]:
        try:
            await asyncio.wait_for(self._opened.wait(), OPEN_S)
        except TimeoutError as error:
            raise WorldError(
                "RAG012", f"shard {self.spec.name} is not open yet", "ask again in a moment"
            ) from error
        shelf = await self._open(self.spec.tier)
        try:
            seq = shelf.seq
            found = await self._loft.search(vector, k, seq) if self._loft else None
            if found is not None:
                passages = await asyncio.to_thread(shelf.passages, found, seq)
                if passages is not None:
                    return passages
            return await asyncio.to_thread(shelf.search, vector, k)
        except WorldError as error:
            if error.code == "RAG006":
                await self._shut()
            raise

    async def _renew(self) -> None:
        """Bring what is in VRAM to what was written since; if that fails, the index below answers on."""
        async with self._moving:
            shelf, loft = self._shelf, self._loft
            if shelf is None or loft is None or loft.seq in {None, shelf.seq}:
                return
            try:
                await loft.fill(await asyncio.to_thread(shelf.matrix), self.epoch)
                self._problem = ""
            except TierceError as error:
                self._problem = f"not renewed in {self.spec.engine}: {error}"

    def _linked(self, remote: Remote) -> Link:
        if self._link is None:
            self._link = open_link(self.spec.name, remote)
        return self._link

    async def _reach_out(self) -> None:
        """Check that a network shard can be read with the node's vectors; raise why it cannot."""
        remote, dim = self.spec.remote, None
        if remote is None:
            return
        if remote.api == "qdrant" and self.spec.embedder:
            dim = (await reach(self._embedder().start.remote(), self.spec.embedder, ENCODE_S)).dim
        await self._linked(remote).check(dim)

    async def beat(self) -> Shelved:
        """Report what is here now; of a network shard, what was heard last."""
        shelf, remote, loft = self._shelf, self.spec.remote, self._loft
        stats = None if shelf is None else await asyncio.to_thread(shelf.stats)
        aloft = stats is not None and loft is not None and await loft.check()
        link = None if remote is None else self._linked(remote)
        if link is not None and link.due():
            self._run(self._ask_after())
        elif aloft and not self._ingesting:
            self._run(self._renew())
        return Shelved(
            pid=os.getpid(),
            rss=psutil.Process().memory_info().rss,
            tier=Tier.NETWORK if link else Tier.VRAM if aloft else stats.tier if stats else None,
            nbytes=loft.nbytes if aloft and loft else stats.nbytes if stats else 0,
            points=(link.points or 0) if link else stats.points if stats else 0,
            searches=self._searches,
            leases=self._searching,
            idle_s=time.monotonic() - self._used_s,
            digest=stats.digest if stats else "",
            reachable=link.reachable if link else True,
            problem=link.problem if link else self._problem,
            earlier=self._earlier,
        )

    def _run(self, errand: Coroutine[Any, Any, None]) -> None:
        """Have an errand done beside the beat; one at a time."""
        if self._errand is not None and not self._errand.done():
            errand.close()
            return
        self._errand = asyncio.create_task(errand)

    async def _ask_after(self) -> None:
        with suppress(TierceError):  # the link keeps what was wrong, and the next beat tells it
            await self._reach_out()

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
        if self._link is not None:
            await self._link.close()
        async with self._opening:
            await self._let_go()
            await asyncio.to_thread(_clear, Path(self.spec.ram_folder), self.spec.name)

    async def withdraw(self) -> None:
        """Leave the lab: the log stays, and so does an index at a path of the file's; ours goes."""
        if self._loft is not None:
            await self._loft.empty(self.epoch)
        await self.close()
        own = Path(self.spec.log_dir).parent / "index"
        if self.spec.remote is None and await asyncio.to_thread(own.is_dir):
            await asyncio.to_thread(remove, own)


def _clear(folder: Path, name: str) -> None:
    """Remove a shard's index from its lab's folder in RAM, and the folder with the last of them."""
    shutil.rmtree(folder / name, ignore_errors=True)
    with suppress(OSError):  # another shard's index is still in it
        folder.rmdir()
