"""When an item has to be looked at though nothing happens to it: a Tick need not look at all of them."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

from placement.pressure import left
from placement.state import NETWORK, Item, Place, State

if TYPE_CHECKING:
    from collections.abc import Iterable

#: at every Tick, and never
ALWAYS, NEVER = -math.inf, math.inf


def look_s(state: State, item: Item, now_s: float) -> float:
    """Return from when on a policy may have something to do about an item if no event changes it.

    ALWAYS for what is under way, or is not where it should rest; else when idling changes where it rests, or
    ends a copy somewhere else, or when a want for it is too late. NEVER for what rests, and for what is being
    removed: that has a policy to itself.
    """
    look = _rest_s(state, item, now_s)
    return min(look, *(want.deadline_s for want in state.queue[item])) if item in state.queue else look


def _rest_s(state: State, item: Item, now_s: float) -> float:
    spec = state.items[item]
    if item in state.retired:
        return NEVER
    if item in state.moves or item in state.gone or item in state.warms:
        return ALWAYS
    if item in state.queue and spec.landing is not None and (item, state.goal(item)) not in state.replicas:
        return ALWAYS
    ordered = state.unloads.get(item)
    if ordered is not None and not ordered.done:
        return ALWAYS
    rest, look = state.rest(item, now_s), NEVER
    if ordered is None and spec.unload_to is not None and state.idle_home(item) != rest:
        look = state.uses[item] + state.idle_s(item)
    if (item, rest) not in state.replicas:
        return ALWAYS if rest in state.rooms else look
    places = state.spots[item]
    if len(places) == 1 or not state.ready(item, rest):
        return look
    stays = state.keeps(item, rest)
    for place in places:
        if place in stays:
            continue
        if ordered is not None or spec.kind == "shard":
            return ALWAYS
        used_s = state.replicas[item, place].used_s
        brought = spec.durable == NETWORK or place.tier.height > rest.tier.height
        used_s = max(used_s, state.uses.get(item, used_s)) if brought else used_s
        look = min(look, used_s + state.idle_s(item))
    return look


def schedule(draft: State, items: Iterable[Item], now_s: float) -> None:
    """Note of these items when each is to be looked at."""
    for item in items:
        if item in draft.items:
            look = look_s(draft, item, now_s)
            if draft.due.get(item) != look:
                draft.own("due")[item] = look


def due_items(state: State, now_s: float) -> list[Item]:
    """Return whom a Tick looks at: who is first in line at each place, then in order of registration."""
    firsts = [item for place in state.lines for item in first_in_line(state, place)]
    found = _found(state, state.due, state.over | state.pressed.keys(), now_s)
    return list(dict.fromkeys((*firsts, *found)))


def due_there(state: State, node: str, now_s: float) -> list[Item]:
    """Return whom a node's news has to look at besides those that it changed."""
    places = [place for place in state.shelves if place.node == node]
    held = [item for place in places for item in state.shelves[place]]
    firsts = [item for place in state.lines if place.node == node for item in first_in_line(state, place)]
    return firsts + _found(state, held, (state.over | state.pressed.keys()) & set(places), now_s)


def first_in_line(state: State, place: Place) -> list[Item]:
    """Return who is first in line at a place and not on its way there: it is enough to look at the others."""
    cold = (item for item in state.lines.get(place, ()) if (item, place) not in state.replicas)
    return list(islice(cold, 1))


def _found(state: State, items: Iterable[Item], full: Iterable[Place], now_s: float) -> list[Item]:
    """Return those of these items that are due, and who lies where there is too much.

    Left out is what is only missing where it should rest, while there is no room for it. One item of a place
    under pressure is enough to have it relieved.
    """
    due, free = state.due, dict[Place, int]()
    found = [item for item in items if due.get(item, ALWAYS) <= now_s]
    found = [item for item in found if not _is_waiting(state, item, now_s, free)]
    for place in sorted(full):
        shelf = state.shelves.get(place, {})
        found += shelf if place in state.over else list(shelf)[:1]
    return list(dict.fromkeys(found))


def _is_waiting(state: State, item: Item, now_s: float, free: dict[Place, int]) -> bool:
    """Tell whether all that a policy could do about an item is to bring it where there is no room."""
    under_way = item in state.queue or item in state.warms or item in state.moves or item in state.gone
    if under_way or state.due.get(item) != ALWAYS or state.pinned(item):
        return False
    spec, rest = state.items[item], state.rest(item, now_s)
    if spec.landing is not None or (item, rest) in state.replicas or rest not in state.rooms:
        return False
    if rest not in free:
        free[rest] = left(state, rest)
    seats = state.rooms[rest].seats.get(spec.base, 0) - state.seated(rest, spec.base)
    return free[rest] < spec.nbytes or (state.takes_seat(item, rest) and seats <= 0)
