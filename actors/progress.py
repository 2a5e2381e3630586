"""One step of bringing a lab up, as it is told to the person who waits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@dataclass(frozen=True, slots=True)
class Progress:
    """A step: what, how many bytes it moved, how long it took, and what went wrong ("" if nothing).

    One that is `going_on` says how far it is.
    """

    what: str
    nbytes: int = 0
    took_s: float = 0.0
    problem: str = ""
    going_on: bool = False


Say: TypeAlias = "Callable[[Progress], None]"


def silent(_: Progress) -> None:
    """Tell nobody: who waits gets all in the end."""


async def steps_of(work: Callable[[Say], Awaitable[object]]) -> AsyncIterator[Progress]:
    """Do a piece of work; yield what it tells as it is told, and raise what it raises.

    It goes on if nobody listens.
    """
    steps: asyncio.Queue[Progress | None] = asyncio.Queue()

    async def do() -> None:
        try:
            await work(steps.put_nowait)
        finally:
            steps.put_nowait(None)

    task = asyncio.create_task(do())
    while (step := await steps.get()) is not None:
        yield step
    await task
