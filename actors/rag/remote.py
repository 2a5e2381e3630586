"""Where a network shard answers, how what it answers is read, and what may be said about it aloud."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from actors.rag.prompt import Passage
from placement.errors import TierceError, UserError, WorldError

#: The most that is shown of what a server says of its own error.
TOLD = 200
#: Where servers put the sentence that says what is wrong.
_ERRORS = ("status.error", "error.message", "error", "detail", "message")
#: Fields that name the document of a passage, where the file does not say which.
_DOCUMENTS = ("document", "source", "title", "url", "id")


@dataclass(frozen=True, slots=True)
class Remote:
    """The address of a network shard, and the names that its fields have there.

    `query` and `top_k` are fields of the request of an `http` API, `results` the dotted path of the list in
    its answer ("." = the answer itself); `text`, `score` and `document` are fields of a result, or of the
    payload of a point, dotted if they lie deeper. `vector` names the vector of a collection that has several.
    """

    url: str = field(repr=False)
    api: Literal["qdrant", "http"] = "qdrant"
    collection: str = ""
    api_key: str = field(default="", repr=False)
    query: str = "query"
    top_k: str | None = None
    results: str = "results"
    text: str = "text"
    score: str = "score"
    document: str | None = None
    vector: str | None = None

    def check(self) -> None:
        """Raise UserError RAG024 unless the address is one that can be connected to."""
        parts = _split(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UserError("RAG024", f"{self.shown!r} is no address", "write url: http://HOST:PORT/PATH")
        if self.api == "qdrant" and not self.collection:
            raise UserError("RAG023", f"{self.shown} holds collections, and none is named", "add: collection")

    @property
    def shown(self) -> str:
        """The address without user, password and query, and the collection: fit for messages."""
        parts = _split(self.url)
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        return f"{address.rstrip('/')} collection {self.collection}" if self.collection else address

    @property
    def bare(self) -> str:
        """The address to connect to, without user and password."""
        parts = _split(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @property
    def login(self) -> tuple[str, str] | None:
        """User and password of the address, if it has them."""
        parts = _split(self.url)
        if parts.username is None and parts.password is None:
            return None
        return unquote(parts.username or ""), unquote(parts.password or "")

    def masked(self, text: str) -> str:
        """Return `text` with everything secret of the address made `***`."""
        parts = _split(self.url)
        secrets = {self.api_key, parts.password or "", unquote(parts.password or ""), parts.query} - {""}
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


def _split(url: str) -> SplitResult:
    """Split an address; one that is none has no parts."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # read only when asked for, and then wrong
    except ValueError:
        return SplitResult("", "", "", "", "")
    return parts


def value_at(row: object, path: str) -> object:
    """Return what `row` has at `path`: a field of that name, else down its dotted steps; None if absent."""
    if isinstance(row, Mapping) and path in row:
        return row[path]
    for step in path.split("."):
        if not isinstance(row, Mapping) or step not in row:
            return None
        row = row[step]
    return row


def passage(remote: Remote, shard: str, row: object, score: object, name: str) -> Passage:
    """Return a result, or the payload of a point, as a passage; `name` names it if no field does.

    Raises UserError RAG025 if it has no text or no number as its score.
    """
    text = value_at(row, remote.text)
    if not isinstance(text, str):
        has = ", ".join(sorted(map(str, row))) if isinstance(row, Mapping) else type(row).__name__
        raise misshapen(remote, f"no text is at {remote.text!r} of a result, which has: {has}", "text")
    if type(score) is int and abs(score) < 1 << 53:
        score = float(score)
    if type(score) is not float or not math.isfinite(score):
        raise misshapen(remote, f"no number is at {remote.score!r} of a result", "score")
    start, end, heading = (value_at(row, key) for key in ("start", "end", "heading"))
    spanned = type(start) is int and type(end) is int
    return Passage(
        text=text,
        document=_document(remote, row) or name,
        heading=heading if isinstance(heading, str) else "",
        start=start if spanned and isinstance(start, int) else 0,
        end=end if spanned and isinstance(end, int) else len(text),
        score=score,
        shard=shard,
    )


def _document(remote: Remote, row: object) -> str:
    for key in (remote.document,) if remote.document else _DOCUMENTS:
        found = value_at(row, key)
        if isinstance(found, (str, int)) and found != "":
            return str(found)
    return ""


def misshapen(remote: Remote, why: str, key: str) -> UserError:
    """Return the error of an answer that is not what `map` says; `key` is the part of `map` to look at."""
    return UserError(
        "RAG025", remote.masked(f"{remote.shown}: {why}"), f"say where it is: map: {{{key}: FIELD}}"
    )


def refusal(remote: Remote, status: int, body: bytes) -> TierceError:
    """Return the error of an answer with a status that is no success."""
    told = remote.masked(f"{remote.shown} answered {status}{_told(body)}")
    if status in {401, 403}:
        return UserError("RAG022", told, "set api_key, or one that may read there")
    if status == 404:
        return UserError("RAG023", told, "check url" + (" and collection" if remote.api == "qdrant" else ""))
    if status == 429:
        return WorldError("RAG028", told, "it asks for fewer questions; ask again later")
    if 300 <= status < 400:
        return UserError("RAG024", told, "redirects are not followed: write the address that it leads to")
    if status >= 500:
        return WorldError("RAG024", told, "ask again in a moment; look at the server's log if it stays")
    return UserError("RAG024", told, "check url, collection and map against the manual of that server")


def _told(body: bytes) -> str:
    """Return what a server says of its error, short and on one line, after a colon; "" if it says nothing."""
    text = body.decode("utf-8", "replace")
    try:
        answer = json.loads(text)
    except ValueError:
        text = re.sub(r"<[^>]*>", " ", text)
    else:
        found = (value_at(answer, path) for path in _ERRORS)
        text = next((value for value in found if isinstance(value, str)), text)
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return f": {line[:TOLD]}" if line else ""
