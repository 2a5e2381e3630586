"""What stands in a prompt beside the question: passages of the role's shards, and what other roles say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from actors.ask import Ask
from actors.errors import NotAllowed
from actors.rag.prompt import Opinion, Passage
from actors.stream import Stream
from placement.errors import TierceError

if TYPE_CHECKING:
    from actors.ask import Stamp
    from actors.names import Handles

T = TypeVar("T")

SEARCH_S = 30.0
#: The part of what is left of an answer's time that the roles may take which it consults.
CONSULT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Using:
    """A shard that a role reads: how many passages, and whether an answer without it is an error.

    `by_text`: it is searched by the question's words alone, and needs no vector.
    """

    shard: str
    top_k: int
    required: bool
    by_text: bool = False


@dataclass(slots=True)
class Counsel:
    """What was found for one question; `missing` names each shard and role that did not answer, and why."""

    passages: list[Passage] = field(default_factory=list)
    opinions: list[Opinion] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


async def together(*work: Awaitable[T]) -> list[T]:
    """Do all at once; the first failure cancels the rest and is raised as itself."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def search(
    handles: Handles, embedder: str, using: Sequence[Using], question: str, within_s: float, into: Counsel
) -> None:
    """Ask every shard at once; one that is not required and does not answer is named as missing.

    The question is embedded once, if any of them needs its vector.
    """
    if not using:
        return
    within_s = min(within_s, SEARCH_S)
    embedding: asyncio.Task[Any] | None = None
    if not all(each.by_text for each in using):
        embedding = asyncio.ensure_future(
            handles.call(embedder, "encode", [question], within_s=within_s),
        )

    async def ask(each: Using) -> None:
        try:
            vector = None if each.by_text or embedding is None else (await embedding)[0]
            into.passages += await handles.call(
                f"shard:{each.shard}", "search", question, vector, each.top_k, within_s=within_s
            )
        except TierceError as error:
            if each.required:
                raise
            into.missing.append(f"shard {each.shard}: {error}")

    await together(*map(ask, using))


async def consult(
    handles: Handles, roles: Sequence[str], ask: Ask, stamp: Stamp, within_s: float, into: Counsel
) -> None:
    """Ask the roles at once what they say to the same question; `stamp` says who asks.

    One that fails is named as missing. Raises NotAllowed if one refuses, or is refused on its own way.
    """
    asked = Ask(ask.question, seed=ask.seed, deadline_s=within_s * CONSULT_SHARE)
    said: dict[str, Opinion] = {}

    async def opinion(role: str) -> None:
        try:
            answer = await Stream(handles, role, asked, stamp).whole()
        except NotAllowed:
            raise
        except TierceError as error:
            into.missing.append(f"role {role}: {error}")
        else:
            said[role] = Opinion(role, answer.version, answer.text)

    await together(*map(opinion, roles))
    into.opinions += [said[role] for role in roles if role in said]
