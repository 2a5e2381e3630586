"""What is brought up before anybody asks: to seats whom habits tell, to spare memory what is worth it."""

from __future__ import annotations

import math
from heapq import nlargest
from typing import TYPE_CHECKING

from placement.habits import LIKELY, leader
from placement.heat import count
from placement.messages import Copy
from placement.score import value, worth
from placement.seating import Bookings, bring
from placement.state import Place
from placement.tiers import Tier

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from placement.messages import Command
    from placement.state import Item, Limits, State

#: who is brought up unasked must be worth so many times what whoever leaves for it is worth: to a seat, and
#: to memory, whose copies are longer
MARGIN, NEAR_MARGIN = 1.2, 1.4
#: of those asked for most often, so many are brought near at a time
FEW = 2


def foresee(state: State, _items: Iterable[Item], now_s: float, limits: Limits) -> Iterator[Command]:
    """Bring to a seat who is likely to be asked for next, one at a time per engine.

    It takes the seat of surplus that is worth less, and nobody's where a want waits.
    """
    told = state.habits.likely
    if not limits.foresees or max(told.values(), default=0.0) < LIKELY:
        return
    bookings = Bookings(state, now_s, limits, ahead=True, margin=MARGIN)
    busy = _arriving(state) | state.lines.keys()
    for _, item in sorted(_foretold(state, now_s, limits), reverse=True):
        goal, name = state.goal(item), state.items[item].name
        if goal in busy:
            continue
        reason = f"{told[name]:.0%} likely to speak soon, after {leader(state.habits, name)}"
        suggested = list(bring(state, item, goal, reason, bookings, now_s))
        if suggested or goal in bookings.waiting:
            busy.add(goal)
        yield from suggested


def _foretold(state: State, now_s: float, limits: Limits) -> Iterator[tuple[float, Item]]:
    """Yield who is likely to be asked for next and has no seat, with what a seat would be worth.

    What the last speaker foretells ends with the item's idle time: a lab that is at rest foretells nothing.
    """
    last_s = _last_s(state)
    for name, likely in state.habits.likely.items():
        item = state.versions.get(name)
        if item is None or likely < LIKELY or not _may_come(state, item, last_s, now_s):
            continue
        goal = state.goal(item)
        if goal.tier is Tier.VRAM and (item, goal) not in state.replicas:
            yield value(state, item, goal, limits), item


def _may_come(state: State, item: Item, since_s: float, now_s: float) -> bool:
    """Tell whether an item may be brought up unasked: nobody sent it down, and it was not idle for long."""
    sent_down = item in state.retired or item in state.unloads or item in state.lowered
    return not sent_down and now_s - since_s < state.idle_s(item)


def _last_s(state: State) -> float:
    """Return when the role that spoke last was last used; -inf if it has left the lab."""
    spoke = state.versions.get(state.habits.recent[0])
    return -math.inf if spoke is None else state.uses[spoke]


def keep_near(state: State, _items: Iterable[Item], now_s: float, limits: Limits) -> Iterator[Command]:
    """Keep in the spare main memory of an engine's node what is worth most there for its bytes.

    Looked at with each Tick: only what was asked for and is not idle, a few at a time, and none where a want
    waits. What is less worth makes room, if it does not rest there.
    """
    if not limits.foresees or not state.heat or now_s != state.ticked_s:
        return
    busy = {place.node for place in _arriving(state) if place.tier is Tier.RAM}
    busy |= {place.node for place in state.lines}
    far: dict[Place, list[Item]] = {}
    for item in state.heat:
        near = _near(state, item, now_s)
        if near is not None and near.node not in busy:
            far.setdefault(near, []).append(item)
    bookings = Bookings(state, now_s, limits, ahead=True, margin=NEAR_MARGIN)
    for near in sorted(far):
        yield from _keep_near(state, near, far[near], bookings, now_s, limits)


def _keep_near(
    state: State, near: Place, far: list[Item], bookings: Bookings, now_s: float, limits: Limits
) -> Iterator[Command]:
    memory = state.asks.best
    often = nlargest(FEW, far, key=lambda item: (count(state, item, memory), item))
    valued = [(value(state, item, near, limits, by_bytes=True), item) for item in often]
    for worthy, item in sorted(valued, reverse=True):
        if worthy > 0:
            told = worth(state, item, near, now_s, limits)
            yield from bring(state, item, near, f"kept near: {told}", bookings, now_s)


def _near(state: State, item: Item, now_s: float) -> Place | None:
    """Return the main memory beside an adapter's engine, if the adapter is neither there nor seated."""
    spec = state.items[item]
    if spec.kind != "adapter" or not _may_come(state, item, state.uses[item], now_s):
        return None
    goal = state.goal(item)
    near = Place(goal.node, Tier.RAM)
    held = (item, goal) in state.replicas or (item, near) in state.replicas
    return None if held or goal.tier is not Tier.VRAM or near not in state.rooms else near


def _arriving(state: State) -> set[Place]:
    """Return the places to which something is being copied."""
    return {op.command.target for op in state.ops.values() if isinstance(op.command, Copy)}
