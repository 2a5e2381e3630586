"""Items brought up ahead of need, and items sent away before their time: orders that stand until they end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from placement.change import put, stay, use, without
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


def warm(draft: State, item: Item, order: Warm, *, foretold: bool = True) -> None:
    """Have an item brought up where it serves: it counts as used, and nothing sends it away.

    If it was `foretold` that it will be asked for, it is worth its seat until then, or until the deadline.
    """
    now_s, goal = order.since_s, draft.goal(item)
    stay(draft, item)
    if draft.ready(item, goal):
        put(draft, {(item, goal): replace(draft.replicas[item, goal], used_s=now_s)})
    draft.warms = {**draft.warms, item: order}
    if foretold:
        draft.expected = {**draft.expected, item: order.deadline_s}
    draft.unloads = without(draft.unloads, item)
    use(draft, item, now_s)


def cool(draft: State, item: Item) -> None:
    """Take back that an item is to be warm, and that it will be asked for; where it is, it may stay."""
    draft.warms = without(draft.warms, item)
    draft.expected = without(draft.expected, item)


def follow(draft: State, used: Iterable[Item], now_s: float, limits: Limits) -> None:
    """Have what the file warms after these uses brought up.

    An item that is where it serves, or was used or warmed a moment ago, is left alone: else two that share
    one seat would drive each other out for as long as those before them are used.
    """
    for name in dict.fromkeys(draft.items[item].name for item in used):
        for item in draft.followers.get(name, ()):
            rested = now_s - draft.uses[item] >= limits.warm_s or _never_used(draft, item)
            if item not in draft.retired and rested and not draft.ready(item, draft.goal(item)):
                warm(draft, item, Warm(f"{name} was used", now_s, now_s + limits.warm_s))


def _never_used(state: State, item: Item) -> bool:
    """Tell whether nothing counts as a use of an item but that it was registered with its durable copy."""
    durable = state.replicas.get((item, state.items[item].durable))
    return durable is not None and durable.since_s == state.uses[item]


def unload(draft: State, item: Item, order: Unload) -> None:
    """Have an item treated as idle until its next use."""
    cool(draft, item)
    draft.unloads = {**draft.unloads, item: order}


def failed_for_good(state: State, item: Item) -> Setback | None:
    """Return what makes it useless to wait for an item where it serves, or None."""
    setbacks = (state.backoff.get((item, place)) for place in on_the_way(state, item, state.goal(item)))
    return next((setback for setback in setbacks if setback is not None and setback.permanent), None)


def settle(draft: State, items: Iterable[Item]) -> None:
    """End warm orders for these items that are done or hopeless, and mark unload orders that are done."""
    for item in items:
        if item in draft.warms and (
            draft.ready(item, draft.goal(item)) or failed_for_good(draft, item) is not None
        ):
            draft.warms = without(draft.warms, item)
        order = draft.unloads.get(item)
        if order is not None and not order.done and _is_down(draft, item):
            draft.unloads = {**draft.unloads, item: replace(order, done=True)}


def _is_down(state: State, item: Item) -> bool:
    rest = state.idle_home(item)
    return state.ready(item, rest) and set(state.spots[item]) <= set(state.keeps(item, rest))


def expire(draft: State, now_s: float) -> None:
    """End warm and unload orders whose time is over."""
    cold = [item for item, order in draft.warms.items() if now_s >= order.deadline_s]
    held = [item for item, order in draft.unloads.items() if not order.done and now_s >= order.deadline_s]
    draft.changed.update(dict.fromkeys((*cold, *held)))
    draft.warms = without(draft.warms, *cold)
    draft.unloads = without(draft.unloads, *held)
