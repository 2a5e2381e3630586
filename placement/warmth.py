"""Items brought up ahead of need, and items sent away before their time: orders that stand until they end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from placement.change import put, without
from placement.routes import on_the_way

if TYPE_CHECKING:
    from collections.abc import Iterable

    from placement.state import Item, Limits, Setback, State


@dataclass(frozen=True, slots=True)
class Warm:
    """An item to be brought up where it serves, ahead of need; its room is what was idle since `since_s`."""

    cause: str
    since_s: float
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Unload:
    """An order to treat an item as idle until its next use; `done` once it is where it then rests."""

    cause: str
    deadline_s: float
    done: bool = False


def warm(state: State, item: Item, order: Warm, *, foretold: bool = True) -> State:
    """Return the state in which an item is to be warm: it counts as used, and nothing sends it away.

    If it was `foretold` that it will be asked for, it is worth its seat until then, or until the deadline.
    """
    now_s, goal = order.since_s, state.goal(item)
    if item in state.leaves:
        state = replace(state, leaves={**state.leaves, item: state.leaves[item] - {goal}})
    if state.ready(item, goal):
        state = put(state, {(item, goal): replace(state.replicas[item, goal], used_s=now_s)})
    return replace(
        state,
        warms={**state.warms, item: order},
        unloads=without(state.unloads, item),
        uses={**state.uses, item: now_s},
        expected={**state.expected, item: order.deadline_s} if foretold else state.expected,
    )


def follow(state: State, used: Iterable[Item], now_s: float, limits: Limits) -> State:
    """Return the state in which what the file warms after these uses is to be warm.

    An item that is where it serves, or was used or warmed a moment ago, is left alone: else two that share
    one seat would drive each other out for as long as those before them are used.
    """
    names = {state.items[item].name for item in used}
    for item, spec in state.items.items() if names else ():
        before = next((name for name in spec.after if name in names), None)
        rested = now_s - state.uses[item] >= limits.warm_s or _never_used(state, item)
        if before is None or item in state.retired or not rested or state.ready(item, state.goal(item)):
            continue
        state = warm(state, item, Warm(f"{before} was used", now_s, now_s + limits.warm_s))
    return state


def _never_used(state: State, item: Item) -> bool:
    """Tell whether nothing counts as a use of an item but that it was registered with its durable copy."""
    durable = state.replicas.get((item, state.items[item].durable))
    return durable is not None and durable.since_s == state.uses[item]


def unload(state: State, item: Item, order: Unload) -> State:
    """Return the state in which an item is treated as idle until its next use."""
    state = replace(state, expected=without(state.expected, item))
    return replace(state, warms=without(state.warms, item), unloads={**state.unloads, item: order})


def failed_for_good(state: State, item: Item) -> Setback | None:
    """Return what makes it useless to wait for an item where it serves, or None."""
    setbacks = (state.backoff.get((item, place)) for place in on_the_way(state, item, state.goal(item)))
    return next((setback for setback in setbacks if setback is not None and setback.permanent), None)


def settle(state: State) -> State:
    """Return the state without warm orders that ended, and with unload orders that are done marked so."""
    over = [
        item
        for item in state.warms
        if state.ready(item, state.goal(item)) or failed_for_good(state, item) is not None
    ]
    if over:
        state = replace(state, warms=without(state.warms, *over))
    done = {
        item: replace(order, done=True)
        for item, order in state.unloads.items()
        if not order.done and _is_down(state, item)
    }
    return replace(state, unloads={**state.unloads, **done}) if done else state


def _is_down(state: State, item: Item) -> bool:
    rest = state.idle_home(item)
    return state.ready(item, rest) and set(state.spots[item]) <= set(state.keeps(item, rest))


def expire(state: State, now_s: float) -> State:
    """Return the state without warm and unload orders whose time is over."""
    cold = [item for item, order in state.warms.items() if now_s >= order.deadline_s]
    held = [item for item, order in state.unloads.items() if not order.done and now_s >= order.deadline_s]
    if not cold and not held:
        return state
    return replace(state, warms=without(state.warms, *cold), unloads=without(state.unloads, *held))
