"""Waiting until items are at their homes, and telling those that do not get there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from actors.progress import Progress
from placement.errors import WorldError
from placement.plan import no_room
from placement.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from actors.coordinator import Coordinator
    from placement.state import Item, State

HOME_S = 300.0


async def come_home(coordinator: Coordinator, items: Iterable[Item], say: Callable[[Progress], None]) -> None:
    """Wait until each item is ready at its home or is known not to get there; tell each."""
    machine, _ = coordinator.brain()
    began = time.monotonic()
    pending = list(items)

    def left() -> list[Item]:
        return [item for item in pending if not _settled(machine.state, item)]

    def fewer() -> bool:
        return len(left()) < len(pending)

    while pending:
        in_time = await coordinator.until(fewer, HOME_S - (time.monotonic() - began))
        still = left() if in_time else []
        for item in [item for item in pending if item not in still]:
            pending.remove(item)
            _tell(coordinator, item, time.monotonic() - began, say)


def _settled(state: State, item: Item) -> bool:
    """Tell whether an item is at home, or waiting longer would not bring it there."""
    if item not in state.items or item in state.retired:
        return True
    home = state.home(item)
    setback = state.backoff.get((item, home))
    hopeless = (setback is not None and setback.permanent) or not state.alive(home.node)
    crowded = no_room(state, item, home) != "" and not state.ops
    return state.ready(item, home) or hopeless or crowded


def _tell(coordinator: Coordinator, item: Item, took_s: float, say: Callable[[Progress], None]) -> None:
    """Tell that an item is at home, or why not; one that is crowded out still comes up when asked."""
    state = coordinator.brain()[0].state
    if item not in state.items:
        return
    spec, home = state.items[item], state.home(item)
    if state.ready(item, home):
        copied = coordinator.effects.copied.get((item, home), (0, 0.0))
        say(Progress(f"{spec.name} is at home in {home}", *copied))
        return
    setback = state.backoff.get((item, home))
    code, why = ("TRC022", no_room(state, item, home)) if setback is None else (setback.code, setback.reason)
    why = why or f"it has not come there in {took_s:.0f} s"
    error = WorldError(code, f"{item} ({format_bytes(spec.nbytes)}) is not at {home}: {why}")
    coordinator.journal.tell(item, str(error), time.time())
    say(Progress(spec.name, problem=str(error)))
