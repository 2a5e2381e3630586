"""A collection of a Qdrant server, read through its own client."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from qdrant_client import AsyncQdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from qdrant_client.http.models import Distance, ScoredPoint, VectorParams

from actors.rag.oplog import Vectors
from actors.rag.prompt import Passage
from actors.rag.remote import Remote, misshapen, passage, refusal
from actors.rag.wire import MAX_NBYTES, settings, typed
from placement.errors import TierceError, UserError

_MADE_ALIKE = "use a collection that was made with the same encoder"


class Collection:
    """Asks one collection for the points nearest to a vector. Nothing is ever written to it."""

    def __init__(self, shard: str, remote: Remote, timeout_s: float, max_nbytes: int = MAX_NBYTES) -> None:
        self.remote = remote
        self._shard = shard
        self._timeout_s = math.ceil(timeout_s)
        #: name and parameters of the vector that is searched; None until the server told
        self._vector: tuple[str | None, VectorParams] | None = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a key over plain http is the choice of whoever wrote the file
            self._client = AsyncQdrantClient(
                url=remote.bare,
                api_key=remote.api_key or None,
                timeout=self._timeout_s,
                check_compatibility=False,  # it asks in a thread of its own and only prints
                headers={"Accept-Encoding": "identity"},
                **settings(remote, max_nbytes),
            )

    async def check(self, dim: int | None) -> int | None:
        """Return how many points are there, if the server tells; it is asked anew about its vectors.

        Raises UserError CFG063 if they do not have `dim` dimensions, RAG025 if there is no such vector.
        """
        with _typed(self.remote):
            info = await self._client.get_collection(self.remote.collection)
        self._vector = self._chosen(info.config.params.vectors)
        if dim is not None:
            self._check_dim(dim, self._vector[1].size)
        return info.points_count

    async def search(self, question: str, vector: Vectors | None, k: int) -> list[Passage]:
        """Return the `k` passages nearest to `vector` [dim], best first; `question` is not needed here."""
        if vector is None:
            raise UserError("RAG001", f"shard {self._shard} was asked {question[:40]!r} without a vector")
        if self._vector is None:
            await self.check(len(vector))
        using, params = self._vector or (None, None)
        if params:
            self._check_dim(len(vector), params.size)
        try:
            with _typed(self.remote):
                answer = await self._client.query_points(
                    self.remote.collection,
                    query=vector.tolist(),
                    using=using,
                    limit=k,
                    with_payload=True,
                    timeout=self._timeout_s,
                )
        except UserError:
            self._vector = None  # it is not what it was
            raise
        euclid = params is not None and params.distance is Distance.EUCLID
        return [self._passage(point, euclid=euclid) for point in answer.points]

    async def close(self) -> None:
        await self._client.close()

    def _passage(self, point: ScoredPoint, *, euclid: bool) -> Passage:
        score = 1 - point.score**2 / 2 if euclid else point.score  # the cosine, of unit vectors
        return passage(self.remote, self._shard, point.payload or {}, score, str(point.id))

    def _chosen(
        self, vectors: VectorParams | dict[str, VectorParams] | None
    ) -> tuple[str | None, VectorParams]:
        name = self.remote.vector
        if isinstance(vectors, VectorParams):
            if name:
                raise misshapen(self.remote, f"its vector has no name, so {name!r} is not there", "vector")
            chosen: tuple[str | None, VectorParams] = None, vectors
        else:
            named = vectors or {}
            if name is None and len(named) == 1:
                name = next(iter(named))
            if name is None or name not in named:
                names = ", ".join(sorted(named)) or "none"
                raise misshapen(
                    self.remote, f"vector {name!r} is not there; its dense vectors: {names}", "vector"
                )
            chosen = name, named[name]
        if chosen[1].distance is Distance.MANHATTAN:
            raise UserError(
                "RAG025",
                f"{self.remote.shown} measures Manhattan distance: no other shard's scores compare with it",
                "use a collection with Cosine, Dot or Euclid",
            )
        return chosen

    def _check_dim(self, ours: int, theirs: int) -> None:
        if ours != theirs:
            self._vector = None  # the collection may be made anew
            raise UserError(
                "CFG063",
                f"{self.remote.shown} holds vectors of {theirs} dimensions, the encoder here makes {ours}",
                _MADE_ALIKE,
            )


@contextmanager
def _typed(remote: Remote) -> Iterator[None]:
    """Turn what the client raises into typed errors, without their causes, which may show a key."""
    try:
        with typed(remote):
            try:
                yield
            except ResponseHandlingException as error:
                raise error.source from None
    except UnexpectedResponse as error:
        found = refusal(remote, error.status_code or 0, error.content or b"")
        if "dimension" in found.message and error.status_code == 400:
            raise UserError("CFG063", found.message, _MADE_ALIKE) from None
        raise found from None
    except ResourceExhaustedResponse as error:
        raise refusal(remote, 429, str(error.message).encode()) from None
    except (TierceError, TimeoutError):
        raise
    except (ValueError, RecursionError, AssertionError):  # what pydantic and the client say of other answers
        raise UserError(
            "RAG025",
            f"{remote.shown} answered what no Qdrant server answers",
            "check that url is that of a Qdrant server, not of its dashboard or a proxy",
        ) from None
