"""The vectors of a shard in the memory of an engine's device, searched exactly."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from actors.lm.recordings import CAPTURING
from actors.lm.request import HeldUse
from placement.errors import WorldError
from placement.units import format_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Questions that share one product: more would make the matrix of scores large, not the answer faster.
BATCH = 32


@dataclass(slots=True)
class _Wanted:
    vector: NDArray[np.float32]  # [dim]
    k: int
    found: asyncio.Future[list[tuple[int, float]]]


class Held:
    """A float32 matrix [rows, dim] on a device; made by `load`. One event loop calls, any number at once.

    What is asked while a product runs shares the next one. `version` says which vectors these are.
    """

    def __init__(self, matrix: torch.Tensor, version: int) -> None:
        self.version = version
        self._matrix = matrix  # [rows, dim]
        self._waiting: list[_Wanted] = []
        self._working: asyncio.Task[None] | None = None
        self._hits = 0
        self._leases = 0
        self._used_s = time.monotonic()

    @classmethod
    def load(cls, vectors: NDArray[np.float32], device: torch.device, version: int) -> Held:
        """Copy `vectors` [rows, dim] to `device`; may block. Raises WorldError LM012 without room there."""
        try:
            matrix = torch.tensor(vectors, dtype=torch.float32, device=device)  # [rows, dim]
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise WorldError(
                "LM012",
                f"{device} has no room for {len(vectors)} vectors ({format_bytes(vectors.nbytes)})",
                "lower slots or kv_cache of that base, or let the shard rest in RAM",
            ) from error
        return cls(matrix, version)

    @property
    def use(self) -> HeldUse:
        return HeldUse(self._matrix.nbytes, self._hits, time.monotonic() - self._used_s, self._leases)

    async def search(self, vector: NDArray[np.float32], k: int) -> list[tuple[int, float]]:
        """Return the `k` rows of the highest product with `vector` [dim], best first, each with it."""
        wanted = _Wanted(np.asarray(vector, dtype=np.float32), k, asyncio.get_running_loop().create_future())
        self._waiting.append(wanted)
        self._leases += 1
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        try:
            return await wanted.found
        finally:
            self._leases -= 1
            self._hits += 1
            self._used_s = time.monotonic()

    async def drained(self) -> None:
        """Wait until everything that was asked so far is answered."""
        if self._working is not None:
            await asyncio.shield(self._working)

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                await self._answer([wanted for wanted in batch if not wanted.found.done()])
        finally:
            self._working = None

    async def _answer(self, batch: list[_Wanted]) -> None:
        try:
            found = await asyncio.to_thread(self._rows, batch)
        except Exception as error:  # noqa: BLE001  (each caller gets it)
            for wanted in batch:
                if not wanted.found.done():
                    wanted.found.set_exception(error)
            return
        for wanted, rows in zip(batch, found, strict=True):
            if not wanted.found.done():
                wanted.found.set_result(rows[: wanted.k])

    @torch.inference_mode()
    def _rows(self, batch: list[_Wanted]) -> list[list[tuple[int, float]]]:
        rows = self._matrix.shape[0]
        if not batch or not rows:
            return [[] for _ in batch]
        questions = torch.tensor(np.stack([wanted.vector for wanted in batch]), device=self._matrix.device)
        scores = questions @ self._matrix.T  # [questions, rows]
        best = torch.topk(scores, min(rows, max(wanted.k for wanted in batch)))
        return [
            list(zip(found, values, strict=True))
            for found, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


def give_back(device: torch.device) -> None:
    """Return what was freed on `device` to it; PyTorch would keep it for its own next use."""
    if device.type == "cuda":
        with CAPTURING:
            torch.cuda.empty_cache()


def reserved(device: torch.device) -> int | None:
    """Return the bytes that this process has taken of `device`; None where nobody counts them."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else None
