"""The way to a network shard: deadlines, another try for what only reads, and rest for what keeps failing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from actors.rag.breaker import Breaker
from actors.rag.oplog import Vectors
from actors.rag.prompt import Passage
from actors.rag.remote import Remote
from actors.rag.wire import late
from placement.errors import UserError, WorldError

T = TypeVar("T")
#: Errors after which the same call may succeed at once.
AGAIN = {"RAG020", "RAG021", "RAG024"}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one call may take, one try of it, and how long is waited between its tries; seconds."""

    deadline_s: float = 10.0
    try_s: float = 4.0
    pauses_s: tuple[float, ...] = (0.1, 0.4)
    #: how old what is known of the other side may get; a check of a search API is a search, maybe a paid one
    fresh_s: float = 30.0


class Far(Protocol):
    """What answers at an address: a `Collection` or a `SearchApi`."""

    async def check(self, dim: int | None) -> int | None:
        """Return how many points are there, if it is told; raise if it cannot be read."""

    async def search(self, question: str, vector: Vectors | None, k: int) -> list[Passage]:
        """Return the `k` best passages, best first."""

    async def close(self) -> None:
        """Let go of the connections."""


class Link:
    """Asks what is far away; one event loop, any number of calls at once. Every error is typed."""

    def __init__(
        self,
        remote: Remote,
        connect: Callable[[], Far],
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.remote = remote
        #: what the other side told last: its points if it tells them, and why it cannot be read
        self.points: int | None = None
        self.reachable = False
        self.problem = "not asked yet"
        self._connect = connect
        self._far: Far | None = None
        self._patience = patience or Patience()
        self._clock = clock
        self._breaker = Breaker()
        self._told_s = -float("inf")

    async def check(self, dim: int | None) -> None:
        """Find out whether the shard can be read, with vectors of `dim` dimensions if given."""
        self.points = await self._call(lambda far: far.check(dim))

    async def search(self, question: str, vector: Vectors | None, k: int) -> list[Passage]:
        """Return the `k` passages that are best there for the question, best first.

        Raises UserError CFG063 or RAG022 to RAG026 for what will fail again unchanged, WorldError RAG020 to
        RAG028 for what may not.
        """
        if k < 1:
            raise UserError("RAG001", f"top_k is {k}: ask for at least one passage")
        return await self._call(lambda far: far.search(question, vector, k))

    def due(self) -> bool:
        """Whether nothing was heard for so long that somebody should check."""
        return self._clock() - self._told_s >= self._patience.fresh_s

    async def close(self) -> None:
        if self._far is not None:
            await self._far.close()

    async def _call(self, work: Callable[[Far], Awaitable[T]]) -> T:
        wait_s = self._breaker.enter(self._clock())
        if wait_s:
            raise WorldError(
                "RAG027",
                f"{self.remote.shown} is left alone for {wait_s:.1f} s more; before: {self.problem}",
                "it is tried again by itself",
            )
        self._told_s = self._clock()
        try:
            if self._far is None:
                self._far = self._connect()
            result = await self._tried(self._far, work)
        except WorldError as error:
            self._breaker.failed(self._clock())
            self.reachable, self.problem = False, str(error)
            raise
        except UserError as error:
            self._breaker.passed()
            self.reachable, self.problem = True, str(error)
            raise
        self._breaker.passed()
        self.reachable, self.problem = True, ""
        return result

    async def _tried(self, far: Far, work: Callable[[Far], Awaitable[T]]) -> T:
        give_up = time.monotonic() + self._patience.deadline_s
        for pause_s in (*self._patience.pauses_s, None):
            try:
                async with asyncio.timeout(min(self._patience.try_s, give_up - time.monotonic())):
                    return await work(far)
            except TimeoutError:
                error = late(self.remote)
            except WorldError as failed:
                error = failed
            if pause_s is None or error.code not in AGAIN or time.monotonic() + pause_s >= give_up:
                break
            await asyncio.sleep(pause_s)
        raise error


def open_link(shard: str, remote: Remote, patience: Patience | None = None) -> Link:
    """Return the way to `remote`; nothing is sent, nor is the address judged, before it is asked."""
    patience = patience or Patience(fresh_s=30.0 if remote.api == "qdrant" else 600.0)

    def connect() -> Far:
        remote.check()
        if remote.api == "qdrant":
            from actors.rag.collection import Collection  # the client takes a second to import

            return Collection(shard, remote, patience.try_s)
        from actors.rag.search_api import SearchApi

        return SearchApi(shard, remote, patience.try_s)

    return Link(remote, connect, patience)
