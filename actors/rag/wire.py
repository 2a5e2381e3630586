"""Answers over HTTP that cannot grow without end, and errors of the wire that say what to do.

Whatever comes from a server is bounded while it is read. Redirects are not followed, so a key goes nowhere
but to the address that the file names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from actors.rag.remote import Remote
from placement.errors import UserError, WorldError
from placement.units import format_bytes

#: The most bytes of one answer.
MAX_NBYTES = 8 << 20


class _Bounded(httpx.AsyncByteStream):
    """The body of an answer; reading more of it than `most` raises UserError RAG026."""

    def __init__(self, body: httpx.AsyncByteStream, most: int, remote: Remote) -> None:
        self._body = body
        self._most = most
        self._remote = remote

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for part in self._body:
            seen += len(part)
            if seen > self._most:
                raise UserError(
                    "RAG026",
                    f"{self._remote.shown} sends more than {format_bytes(self._most)} in one answer",
                    "ask it for fewer or shorter passages: a lower top_k",
                )
            yield part

    async def aclose(self) -> None:
        await self._body.aclose()


def settings(remote: Remote, max_nbytes: int = MAX_NBYTES) -> dict[str, Any]:
    """Return how an httpx client for `remote` is made: bounded, without redirects, with its login."""

    async def bound(response: httpx.Response) -> None:
        packed = response.headers.get("content-encoding", "identity")
        if packed != "identity":  # a few packed bytes can be gigabytes
            raise UserError(
                "RAG025",
                f"{remote.shown} answers in {packed[:20]}, where plain text was asked for",
                "have the server honour Accept-Encoding: identity",
            )
        if isinstance(response.stream, httpx.AsyncByteStream):
            response.stream = _Bounded(response.stream, max_nbytes, remote)

    keyed = remote.api == "http" and remote.api_key  # the key goes where the login would
    return {
        "auth": httpx.BasicAuth(*remote.login) if remote.login and not keyed else None,
        "event_hooks": {"response": [bound]},
        "follow_redirects": False,
    }


@contextmanager
def typed(remote: Remote) -> Iterator[None]:
    """Turn what httpx raises into RAG020, RAG021 or RAG024; no cause is kept, which may show a key."""
    try:
        yield
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        why = remote.masked(str(error))
        raise UserError(
            "RAG024", f"{remote.shown} is no address: {why}", "write url: http://HOST:PORT/PATH"
        ) from None
    except httpx.TimeoutException:
        raise late(remote) from None
    except httpx.ConnectError as error:
        why = remote.masked(str(error)) or "no connection"
        raise WorldError(
            "RAG020", f"{remote.shown} cannot be reached: {why}", "check url, and that the server runs"
        ) from None
    except httpx.HTTPError as error:
        why = remote.masked(str(error)) or type(error).__name__
        raise WorldError(
            "RAG020", f"{remote.shown} broke off its answer: {why}", "ask again in a moment"
        ) from None


def late(remote: Remote) -> WorldError:
    """Return the error of an answer that did not come in time."""
    return WorldError("RAG021", f"{remote.shown} did not answer in time", "look at the load of that server")
