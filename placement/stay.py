"""How long a copy stays where it is: what would take its place, and when it leaves by itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from placement.messages import Drop
from placement.plan import objections
from placement.pressure import is_measured, left, level
from placement.seating import Bookings
from placement.state import NETWORK
from placement.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from placement.limits import Limits
    from placement.state import Item, Place, Replica, State

#: names that a sentence lists
SHOWN = 4
#: why a copy stays beside the one at which the item is aimed
FURTHER = "once no engine would lead without it, or nobody asks for it: a further copy"


def evicted(state: State, item: Item, place: Place, now_s: float, limits: Limits) -> Iterator[str]:
    """Yield what would take the item's place there, and after whom it stands in line; or why nothing does."""
    spec, room = state.items[item], state.rooms.get(place)
    against = list(objections(state, Drop("", item, place, ""), now_s, limits))
    if place == spec.durable or (place == state.home(item) and state.pinned(item)):
        yield "never: the durable copy" if place == spec.durable else "never: pinned"
        return
    if against or room is None:
        yield f"not now: {'; '.join(against) or 'no budget counts it'}"
        return
    seat = state.takes_seat(item, place)
    if seat:
        seats = room.seats.get(spec.base, 0)
        free = max(seats - state.seated(place, spec.base), 0)
        yield f"when a want finds no seat of {spec.base} free ({free} of {seats} are)"
    else:
        free_nbytes, capacity = (format_bytes(max(n, 0)) for n in (left(state, place), room.capacity))
        yield f"when who is wanted finds no room ({free_nbytes} of {capacity} are free)"
    rests = state.rest(item, now_s) == place
    if not rests:
        yield "or for what is warmed or foretold and worth more: it is surplus"
    if not rests or is_measured(state, place):
        high = limits.high.get(place.tier, 1.0)
        yield f"or when the memory is over {high:.0%} ({level(state, place).share:.0%} now)"
    yield _turn(state, item, Bookings(state, now_s, limits).in_line(place, by_bytes=not seat))


def _turn(state: State, item: Item, line: tuple[Item, ...]) -> str:
    names = [state.items[other].name for other in line]
    at = line.index(item) if item in line else len(line)
    more = f" and {at - SHOWN} more" if at > SHOWN else ""
    before = f"after {', '.join(names[:at][-SHOWN:])}{more}" if at else "the first to go"
    return f"{at + 1} of {max(len(line), at + 1)} in line there: {before}"


def unloads(state: State, item: Item, place: Place, now_s: float) -> tuple[tuple[str, ...], float | None]:
    """Return when a copy leaves by itself: facts in words, and in how many seconds if time alone decides."""
    low, replica = state.idle_home(item), state.replicas[item, place]
    stays = _stays(state, item, place, now_s)
    if stays:
        return (stays,), None
    order = state.unloads.get(item)
    if order is not None or item in state.retired:
        why = f"unloaded by {order.cause}, to {low}" if order is not None else "it is being removed"
        return (f"now: {why}{_held(replica)}",), 0.0
    in_s = max(_idle_at_s(state, item, place, state.rest(item, now_s)) - now_s, 0.0)
    then = low if state.ready(item, low) else f"{low}, once it is ready there"
    told = f"in {format_seconds(in_s)} if nobody asks, to {then} (idle {format_seconds(state.idle_s(item))})"
    facts: tuple[str, ...] = (f"{told}{_held(replica)}",)
    facts += (f"or {FURTHER}",) if _is_further(state, item, place) else ()
    if (patience := state.patience.get(item)) is not None:
        fades = format_seconds(max(patience.until_s - now_s, 0.0))
        facts += (f"it came back too soon: {patience.times:g} times the file's idle time for {fades}",)
    return facts, in_s


def _stays(state: State, item: Item, place: Place, now_s: float) -> str:
    """Return why time alone does not take a copy away, "" if it does."""
    spec, home, rest = state.items[item], state.home(item), state.rest(item, now_s)
    if place == spec.durable and item not in state.retired:
        return "never: the durable copy"
    if place == home and state.pinned(item):
        return "never: pinned"
    if item in state.retired:
        return ""
    if place in state.leaves.get(item, ()):
        return f"once it is ready at {home}"
    if place in state.keeps(item, state.idle_home(item)):
        return "never by itself: it rests here"
    if spec.kind == "shard" and place not in state.keeps(item, rest):
        return f"once its index at {rest} is ready"
    if spec.idle_s < math.inf:
        return ""
    return FURTHER if _is_further(state, item, place) else "never by itself: it has no idle time"


def _is_further(state: State, item: Item, place: Place) -> bool:
    return state.takes_seat(item, place) and place not in (state.goal(item), state.home(item))


def _held(replica: Replica) -> str:
    return f"; {replica.leases} in use now" if replica.leases else ""


def _idle_at_s(state: State, item: Item, place: Place, rest: Place) -> float:
    """Return when idling takes a copy away that does not lie where the item rests when idle."""
    used_s = state.replicas[item, place].used_s
    brought = state.items[item].durable == NETWORK or place.tier.height > rest.tier.height
    if brought or place in state.keeps(item, state.home(item)):
        used_s = max(used_s, state.uses[item])
    return used_s + state.idle_s(item)
