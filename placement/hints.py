"""What an order to warm would do: how soon, whom it would evict, or why it cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from placement.aim import aim
from placement.messages import Copy, Drop
from placement.plan import no_room, objections
from placement.policies import hopeless
from placement.routes import next_leg
from placement.seating import Bookings
from placement.speed import seconds
from placement.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from placement.limits import Limits
    from placement.state import Item, Place, State


@dataclass(frozen=True, slots=True)
class Forecast:
    """What comes of warming an item at `goal`.

    `eta_s` is in how many seconds it is likely to be ready there (0: it is), None if that depends on how long
    those that it `waits_for` are in use. `evicts` are the items that leave for it. A `refusal` is code and
    reason, with numbers; then nothing else is said.
    """

    goal: Place
    eta_s: float | None = None
    evicts: tuple[Item, ...] = ()
    waits_for: tuple[Item, ...] = ()
    refusal: tuple[str, str] | None = None


def forecast(state: State, item: Item, within_s: float, now_s: float, limits: Limits) -> Forecast:
    """Return what an order given now to warm an item `within_s` would come to."""
    goal = aim(state, item)
    failed = hopeless(state, item, goal)
    if state.ready(item, goal):
        return Forecast(goal, 0.0)
    if failed is not None:
        return Forecast(goal, refusal=failed)
    if (item, goal) in state.replicas:
        return _in_time(state, item, Forecast(goal, _left_s(state, item, now_s)), within_s)
    if goal not in state.rooms:
        return Forecast(goal, refusal=("TRC021", f"{item} cannot be warmed: no node offers {goal}"))
    booking = Bookings(state, now_s, limits, ahead=True).book(item, goal, now_s)
    eta_s = way_s(state, item, goal)
    if booking.now or booking.victims:
        return _in_time(state, item, Forecast(goal, eta_s, booking.victims), within_s)
    busy = tuple(
        other for other in state.shelves.get(goal, {}) if _is_busy(state, other, goal, now_s, limits)
    )
    if busy:
        return Forecast(goal, None, waits_for=busy)
    why = no_room(state, item, goal) or f"{goal} is filled up to its high mark"
    return Forecast(goal, refusal=("TRC022", f"{item} cannot be warmed: {why}"))


def _in_time(state: State, item: Item, told: Forecast, within_s: float) -> Forecast:
    if told.eta_s is None or told.eta_s <= within_s:
        return told
    nbytes, way = format_bytes(state.items[item].nbytes), format_seconds(told.eta_s)
    why = f"its {nbytes} take {way} to {told.goal}, and {format_seconds(within_s)} are given"
    return Forecast(told.goal, refusal=("TRC028", f"{item} cannot be warm in time: {why}"))


def _left_s(state: State, item: Item, now_s: float) -> float:
    """Return how long the copies of an item that are in flight are likely to take from now on."""
    left_s = [
        seconds(state, op.command.source, op.command.target, op.command.nbytes) - (now_s - op.began_s)
        for op in state.ops.values()
        if isinstance(op.command, Copy) and op.command.item == item
    ]
    return max(0.0, *left_s) if left_s else 0.0


def way_s(state: State, item: Item, goal: Place) -> float:
    """Return how long an item is likely to be on its way to `goal`, over where it lands."""
    leg, nbytes = next_leg(state, item, goal), state.items[item].nbytes
    if leg is None:
        return _left_s(state, item, state.now_s)
    source, target = leg
    way_s = seconds(state, source, target, nbytes)
    return way_s if target == goal else way_s + seconds(state, target, goal, nbytes)


def _is_busy(state: State, item: Item, place: Place, now_s: float, limits: Limits) -> bool:
    """Tell whether an item will leave room once it is no longer in use, or is leaving already."""
    replica = state.replicas[item, place]
    if replica.phase != "ready":
        return True
    lives = state.rest(item, now_s) == place
    return not lives and any(objections(state, Drop("", item, place, ""), now_s, limits))
