"""The schedules of a lab's file: what is warmed or unloaded at a time of day."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from placement.config.cron import due
from placement.errors import TierceError
from placement.messages import UnloadOrdered

if TYPE_CHECKING:
    from actors.coordinator import Coordinator
    from placement.config.schema import Role, Shard

BY = "schedule"
WARM_S = 120.0
FACT = "struck"
#: What was due longer ago than this is not wanted any more.
MISSED = timedelta(minutes=10)


class Schedule:
    """Strikes at each beat for the minutes that passed since the last; the clock is the node's own.

    The last minute is written down: what was due while nobody watched is made up for, up to `MISSED`.
    """

    def __init__(self) -> None:
        self._struck: datetime | None = None

    def strike(self, coordinator: Coordinator, now: datetime | None = None) -> None:
        """Give the orders of all schedules that were due since the last strike.

        One that may not activate a role is refused, and the role's story says so.
        """
        now = (now or datetime.now().astimezone()).replace(second=0, microsecond=0)
        since = self._struck or _last(coordinator, now)
        if now <= since:
            return
        self._struck = now
        coordinator.journal.set_fact(FACT, now.isoformat())
        _, crew = coordinator.brain()
        entries: list[Role | Shard] = [*crew.lab.roles.values(), *crew.lab.rag.values()]
        for entry in entries:
            if entry.warm.at is not None and due(entry.warm.at, since, now):
                coordinator.keep(_warm(coordinator, entry.name, entry.warm.at))
            if entry.unload.at is not None and due(entry.unload.at, since, now):
                _unload(coordinator, entry.name, entry.unload.at)


def _last(coordinator: Coordinator, now: datetime) -> datetime:
    """Return the minute up to which an earlier coordinator has struck; the one before this if none has."""
    written = coordinator.journal.fact(FACT)
    if written is None:
        return now - timedelta(minutes=1)
    return max(datetime.fromisoformat(written), now - MISSED)


async def _warm(coordinator: Coordinator, name: str, at: str) -> None:
    try:
        await coordinator.warm(name, BY, f"the schedule {at!r}", WARM_S)
    except TierceError as error:
        coordinator.journal.tell(name, f"not warmed at {at!r}: {error}", time.time())


def _unload(coordinator: Coordinator, name: str, at: str) -> None:
    try:
        coordinator.take(UnloadOrdered(coordinator.item_named(name), f"the schedule {at!r}"))
    except TierceError as error:
        coordinator.journal.tell(name, f"not unloaded at {at!r}: {error}", time.time())
