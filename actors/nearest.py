"""Which engine of its base a role asks: of those that have its adapter, the one with the shortest queue."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from actors.errors import Unreachable, reach
from placement.errors import WorldError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actors.engine import Anatomy, Decoding
    from actors.names import Handles

#: An engine that takes longer to say what it has is not asked while another can be.
LOOK_S = 1.0
#: An engine that takes longer to tell of its base is passed over for the next one.
TELL_S = 5.0


async def nearest(handles: Handles, engines: Sequence[str], item: str) -> str:
    """Return the actor name of the engine to ask about an item; of one engine, that one, unasked.

    Each engine is asked for what it has now: it knows, and no table does. If none has the item, it is one
    that is there; if none is there, the first.
    """
    names = [f"engine:{engine}" for engine in engines]
    if len(names) == 1:
        return names[0]
    ranks = await asyncio.gather(*(_rank(handles, name, item) for name in names))
    return min(zip(ranks, names, strict=True), key=lambda each: each[0])[1]


async def _rank(handles: Handles, name: str, item: str) -> tuple[int, int]:
    """Return how far an engine is from answering, and how many requests are in flight there."""
    try:
        engine = await handles.find(name)
        report: Decoding = await reach(engine.beat.remote(full=False), name, LOOK_S)
    except WorldError:
        handles.forget(name)
        return 3, 0  # the last to be asked, and who asks it is told why it does not answer
    queue = sum(use.leases for use in report.slots.values())
    if item in report.slots and item not in report.closing:
        return 0, queue
    return (1, queue) if report.started else (2, queue)


async def anatomy_of(handles: Handles, engines: Sequence[str], within_s: float) -> Anatomy:
    """Return what an engine of a base tells of it: the first one that answers. Raises as the last of them.

    One that hangs leaves the others their share of the `within_s` seconds.
    """
    give_up = time.monotonic() + within_s
    *others, last = [f"engine:{engine}" for engine in engines]
    for passed, name in enumerate(others):
        share_s = (give_up - time.monotonic()) / (len(engines) - passed)
        try:
            told: Anatomy = await handles.call(name, "anatomy", within_s=min(TELL_S, share_s))
        except Unreachable:
            continue
        return told
    only: Anatomy = await handles.call(last, "anatomy", within_s=give_up - time.monotonic())
    return only
