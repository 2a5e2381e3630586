"""What goes on about an item: what moves, what failed and is tried again, what an ask would come to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from placement.aim import aim
from placement.hints import way_s
from placement.messages import Copy
from placement.plan import no_room
from placement.policies import hopeless
from placement.routes import next_leg
from placement.rows import away
from placement.seating import Bookings
from placement.speed import seconds
from placement.tale import ago, brief, left
from placement.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from placement.limits import Limits
    from placement.state import Item, Op, State
    from placement.tale import Told


def absent(state: State, item: Item, story: Sequence[Told], now_s: float, limits: Limits) -> Iterator[str]:
    """Yield the places that the item should be at and is not, and those that it has left, with the cause."""
    rest = state.rest(item, now_s)
    missing = "" if item in state.retired else away(state, item, now_s, limits)
    if missing:
        yield f"{rest}, where it should rest: {missing}"
    held = {str(place) for place in state.spots.get(item, ())}
    for place, deed in left(story).items():
        if place not in held and not (missing and place == str(rest)):
            yield f"{place} for {format_seconds(max(deed.ago_s, 0.0))}: {brief(deed.cause)}"


def moves(state: State, item: Item, now_s: float) -> Iterator[str]:
    """Yield what is under way about an item, with how long it is likely to take or when it is given up."""
    goal = state.goal(item)
    for op in state.ops.values():
        if op.command.item == item:
            yield _running(state, op, now_s)
    if (move := state.moves.get(item)) is not None:
        over = f" over {move.landing}" if move.landing is not None else ""
        undone = f"undone if not there in {_left(move.deadline_s, now_s)}"
        yield f"to {move.to}{over}, ordered by {move.cause}; {undone}"
    if (warm := state.warms.get(item)) is not None:
        yield f"to be warm at {goal} within {_left(warm.deadline_s, now_s)}: {warm.cause}"
    if (order := state.unloads.get(item)) is not None and not order.done:
        yield f"to {state.idle_home(item)} once nobody uses it: unloaded by {order.cause}"
    if wants := state.queue.get(item, ()):
        first, many = wants[0], f"{len(wants)} requests want" if len(wants) > 1 else "a request wants"
        waited = format_seconds(max(now_s - first.since_s, 0.0))
        yield f"{many} it at {goal}, for {waited}; given up in {_left(first.deadline_s, now_s)}"


def _running(state: State, op: Op, now_s: float) -> str:
    passed_s, command = max(now_s - op.began_s, 0.0), op.command
    if not isinstance(command, Copy):
        return f"leaving {command.place} since {ago(passed_s)}: {brief(command.reason)}"
    left_s = seconds(state, command.source, command.target, command.nbytes) - passed_s
    eta = f"there in about {format_seconds(left_s)}" if left_s > 0 else f"late by {format_seconds(-left_s)}"
    size = format_bytes(command.nbytes)
    return f"{size} from {command.source} to {command.target}, {eta}: {brief(command.reason)}"


def retries(state: State, item: Item, now_s: float) -> Iterator[str]:
    """Yield what failed at which place, and when it is tried again."""
    for (other, place), setback in state.backoff.items():
        if other != item:
            continue
        times = f"{setback.failures} times" if setback.failures > 1 else "once"
        if setback.permanent:
            when = "not tried again until it is registered or moved anew"
        elif now_s >= setback.until_s:
            when = "may be tried again now"
        elif (item, place) in state.replicas:
            when = f"asked to leave again in {_left(setback.until_s, now_s)}"
        else:
            when = f"tried again in {_left(setback.until_s, now_s)}"
        yield f"{place}: {when}; failed {times}, the last:"
        yield f"  {setback}"


def asked(state: State, item: Item, now_s: float, limits: Limits) -> str:
    """Return what an ask would come to now: where it is answered, or how soon the item is there, for whom."""
    goal, served = aim(state, item), state.served_at(item)
    failed = hopeless(state, item, goal)
    if served is not None:
        return f"answered at {served} at once"
    if failed is not None:
        return f"refused: {failed[1]} [{failed[0]}]"
    if (item, goal) in state.replicas:
        return f"answered once it is ready at {goal}"
    if goal not in state.rooms:
        return f"waits: {goal} is not offered by any node"
    paused = state.blocked(item, goal, now_s)
    if paused is not None:
        return f"waits: {goal} is tried again in {_left(paused.until_s, now_s)}"
    booking = Bookings(state, now_s, limits).book(item, goal)
    if next_leg(state, item, goal) is None:
        return f"ready at {goal} once its bytes have landed"
    if not booking.now and not booking.victims:
        return f"waits: {no_room(state, item, goal)}"
    names = ", ".join(state.items[victim].name for victim in booking.victims)
    instead = f", in place of {names}" if names else ""
    return f"ready at {goal} in about {format_seconds(way_s(state, item, goal))}{instead}"


def _left(until_s: float, now_s: float) -> str:
    return format_seconds(max(until_s - now_s, 0.0))
