"""Wants: a request for an adapter in its engine, settled exactly once by the Machine's Grant or Refuse."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING

from actors.answer import Activation
from actors.errors import UnknownName
from placement.errors import WorldError
from placement.messages import Wanted, WantEnded

if TYPE_CHECKING:
    from actors.coordinator import Coordinator
    from placement.errors import TierceError
    from placement.state import Item, Place

#: The Machine refuses a want at its deadline, with the reason; this long its word may take.
LATE_S = 5.0
ASK_AGAIN_S = 0.25


class Wants:
    """Open wants by id. To be used on one event loop."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._futures: dict[str, asyncio.Future[Place]] = {}

    def open(self, epoch: int) -> tuple[str, asyncio.Future[Place]]:
        """Return a new want's id and the future of the place where it is granted."""
        want = f"{epoch}.w{next(self._numbers)}"
        self._futures[want] = asyncio.get_running_loop().create_future()
        return want, self._futures[want]

    def grant(self, want: str, place: Place) -> None:
        """End a want well; nothing happens if it has ended."""
        if (future := self._futures.pop(want, None)) and not future.done():
            future.set_result(place)

    def refuse(self, want: str, error: TierceError) -> None:
        """End a want with the error that its caller gets; nothing happens if it has ended."""
        if (future := self._futures.pop(want, None)) and not future.done():
            future.set_exception(error)

    def forget(self, want: str) -> None:
        """Drop a want whose caller gave up."""
        self._futures.pop(want, None)


async def bring(coordinator: Coordinator, item: Item, caller: str, within_s: float) -> Activation:
    """Bring an adapter up to its engine; return what it cost (nothing, if it was there).

    Raises UnknownName for an item that is not registered, and the Machine's refusal as a typed error.
    """
    machine, _ = await coordinator.opened()
    if item not in machine.state.items:
        raise UnknownName("TRC001", f"{item} is not registered", "see `tierce ps`")
    began = time.monotonic()
    if machine.state.ready(item, machine.state.goal(item)):
        await _hear(coordinator, machine.state.items[item].base, within_s)
    want, future = coordinator.wants.open(machine.state.epoch)
    coordinator.journal.tell(item, f"asked for by {caller} (want {want})", time.time())
    coordinator.take(Wanted(want, item, began + within_s))
    try:
        await asyncio.wait_for(asyncio.shield(future), within_s + LATE_S)
    except TimeoutError as error:
        _give_up(coordinator, want)
        raise WorldError(
            "TRC012", f"{item} did not come up in {within_s:.0f} s", f"see `tierce story {item}`"
        ) from error
    except asyncio.CancelledError:
        _give_up(coordinator, want)
        raise
    total_s = time.monotonic() - began
    done_s, cost = coordinator.effects.activated.get(item, (began - 1, None))
    if cost is None or done_s < began:
        return Activation("VRAM", 0, total_s, 0.0)
    return Activation(cost.source, cost.nbytes, total_s, cost.copy_s)


def _give_up(coordinator: Coordinator, want: str) -> None:
    coordinator.wants.forget(want)
    coordinator.take(WantEnded(want))


async def _hear(coordinator: Coordinator, base: str, within_s: float) -> None:
    """Beat until the engine of `base` has said what it holds: one that was just killed is silent."""
    give_up = time.monotonic() + within_s
    await coordinator.beat()
    while coordinator.census.engines[base] is None and time.monotonic() < give_up:
        await asyncio.sleep(ASK_AGAIN_S)
        await coordinator.beat()
