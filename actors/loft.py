"""The copy of a shard's vectors in the VRAM of an engine: filled, searched and emptied from the shard."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import ray

from actors.errors import Unreachable, reach
from actors.rag.breaker import Breaker
from placement.errors import Cold, WorldError

if TYPE_CHECKING:
    import numpy as np

    from actors.rag.matrix import Matrix

FILL_S = 120.0
#: An engine that takes longer to search is answered for by the index below.
SEARCH_S = 2.0
#: Shorter than the coordinator waits for the shard's own report, which waits for this.
CHECK_S = 1.0


class Loft:
    """What of shard `item` is in the engine `engine` of `lab`; it is there only while `seq` is not None.

    The engine is the authority: when it says Cold, or has died, the loft is empty and says so. One that is
    merely slow keeps what it has, and is not asked for a while.
    """

    def __init__(self, item: str, engine: str, lab: str) -> None:
        self.item = item
        self.engine = engine
        self.lab = lab
        #: the operation of the log after which the vectors there were read; None if none are there
        self.seq: int | None = None
        self.nbytes = 0
        self._ids: tuple[str, ...] = ()
        self._renewing = False
        self._breaker = Breaker(failures=1, first_s=1.0, most_s=8.0)

    async def fill(self, matrix: Matrix, epoch: int) -> None:
        """Have the engine hold `matrix` in place of what it holds. Raises what the engine raises."""
        self._renewing, self.seq = self.seq is not None, None
        try:
            call = self._handle().hold.remote(self.item, [ray.put(matrix.vectors)], epoch, matrix.seq)
            self.nbytes = (await reach(call, self.engine, FILL_S)).nbytes
        finally:
            self._renewing = False
        self.seq, self._ids = matrix.seq, matrix.ids
        self._breaker.passed()

    async def search(self, vector: np.ndarray, k: int, seq: int) -> list[tuple[str, float]] | None:
        """Return the `k` points nearest to `vector` as of operation `seq`, best first.

        None if the engine does not have them, or does not answer soon: then the index below is asked.
        """
        if self.seq is None or self.seq != seq or self._breaker.enter(time.monotonic()):
            return None
        ids = self._ids
        try:
            call = self._handle().search_held.remote(self.item, vector, k, seq)
            rows = await reach(call, self.engine, SEARCH_S)
        except WorldError as error:
            self._missed(error, seq)
            return None
        self._breaker.passed()
        return [(ids[row], score) for row, score in rows]

    async def check(self) -> bool:
        """Return whether the vectors are in the engine, or on their way there, as far as is known."""
        seq = self.seq
        if seq is None or self._breaker.enter(time.monotonic()):
            return self.seq is not None or self._renewing
        try:
            report = await reach(self._handle().beat.remote(full=False), self.engine, CHECK_S)
        except WorldError as error:
            self._missed(error, seq)
        else:
            self._breaker.passed()
            if self.item not in report.held:
                self._lost(seq)
        return self.seq is not None or self._renewing

    async def empty(self, epoch: int) -> None:
        """Have the engine hold the vectors no longer; one that is not running holds none."""
        self.seq = None
        try:
            await reach(self._handle().release.remote(self.item, epoch), self.engine, FILL_S)
        except Unreachable as error:
            if error.code != "TRC031":
                raise

    def _missed(self, error: WorldError, seq: int) -> None:
        if isinstance(error, Cold) or error.code == "TRC031":  # with its process its memory is gone
            self._lost(seq)
        else:
            self._breaker.failed(time.monotonic())

    def _lost(self, seq: int) -> None:
        if self.seq == seq:  # and not filled again meanwhile
            self.seq = None

    def _handle(self) -> Any:
        try:
            return ray.get_actor(self.engine, namespace=self.lab)
        except ValueError as error:
            raise Unreachable("TRC031", f"{self.engine} is not running", "run `tierce up` again") from error
