"""Any search API that takes a question as JSON and gives a list of passages as JSON."""

from __future__ import annotations

import json

import httpx

from actors.rag.oplog import Vectors
from actors.rag.prompt import Passage
from actors.rag.remote import Remote, misshapen, passage, refusal, value_at
from actors.rag.wire import MAX_NBYTES, settings, typed
from placement.errors import UserError

#: What is asked to see whether key and field names are right: a search is the one call that every API has.
PROBE = "What is this about?"


class SearchApi:
    """POSTs `{map.query: question, map.top_k: k}` and reads the answer as `map` says. Nothing is written."""

    def __init__(self, shard: str, remote: Remote, timeout_s: float, max_nbytes: int = MAX_NBYTES) -> None:
        self.remote = remote
        self._shard = shard
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if remote.api_key:
            headers["Authorization"] = f"Bearer {remote.api_key}"
        with typed(remote):
            self._client = httpx.AsyncClient(
                headers=headers, timeout=timeout_s, **settings(remote, max_nbytes)
            )

    async def check(self, dim: int | None) -> int | None:  # noqa: ARG002  (it searches by text)
        """Ask for one passage; how many there are nobody knows. Raises what a search raises."""
        await self.search(PROBE, None, 1)
        return None

    async def search(self, question: str, vector: Vectors | None, k: int) -> list[Passage]:  # noqa: ARG002
        """Return at most `k` passages for `question`, highest score first; the vector is not needed here."""
        asked: dict[str, object] = {self.remote.query: question}
        if self.remote.top_k:
            asked[self.remote.top_k] = k
        with typed(self.remote):
            answer = await self._client.post(self.remote.bare, json=asked)
        if not answer.is_success:
            raise refusal(self.remote, answer.status_code, answer.content)
        rows = self._rows(answer.content)
        found = [
            passage(self.remote, self._shard, row, value_at(row, self.remote.score), f"result {n}")
            for n, row in enumerate(rows, 1)
        ]
        return sorted(found, key=lambda one: -one.score)[:k]

    async def close(self) -> None:
        await self._client.aclose()

    def _rows(self, content: bytes) -> list[object]:
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            raise UserError(
                "RAG025",
                f"{self.remote.shown} answered {len(content)} bytes that are no JSON",
                "check that url is that of the search call, not of a page",
            ) from None
        rows = answer if self.remote.results == "." else value_at(answer, self.remote.results)
        if not isinstance(rows, list):
            has = (
                ", ".join(sorted(map(str, answer))[:10])
                if isinstance(answer, dict)
                else type(answer).__name__
            )
            raise misshapen(
                self.remote,
                f"no list is at {self.remote.results!r} of the answer, which has: {has}",
                "results",
            )
        return rows
