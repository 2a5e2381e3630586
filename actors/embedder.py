"""The Embedder of a node: texts to vectors, one model, one thread, for every shard and role of the node."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import numpy as np

    from actors.rag.encoder import Encoder


@dataclass(frozen=True, slots=True)
class Embedding:
    """What an Embedder reports of itself."""

    pid: int
    rss: int
    started: bool
    dim: int
    fingerprint: str


class Embedder:
    """Plain class; `actors.crew` wraps it as the actor `embedder:<node>`."""

    def __init__(self, model: str) -> None:
        self.model = model
        self._encoder: Encoder | None = None
        self._starting = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encode")

    async def start(self) -> Embedding:
        """Load the model once; safe to call again."""
        async with self._starting:
            if self._encoder is None:
                from actors.rag.encoder import Encoder  # torch, which nobody who only calls us should load

                loop = asyncio.get_running_loop()
                self._encoder = await loop.run_in_executor(self._thread, Encoder.load, self.model)
        return await self.beat()

    async def encode(self, texts: list[str]) -> np.ndarray:
        """Return unit vectors, float32 [len(texts), dim]."""
        if self._encoder is None:
            await self.start()
        if self._encoder is None:
            raise RuntimeError("the encoder is not loaded after start()")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._encoder.encode, texts)

    async def beat(self) -> Embedding:
        encoder = self._encoder
        return Embedding(
            pid=os.getpid(),
            rss=psutil.Process().memory_info().rss,
            started=encoder is not None,
            dim=encoder.dim if encoder else 0,
            fingerprint=encoder.fingerprint if encoder else "",
        )
