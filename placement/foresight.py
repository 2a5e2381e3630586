"""What is brought up before anybody asks: to seats whom habits tell, to spare memory what is worth it."""

from __future__ import annotations

import math
from heapq import nlargest
from typing import TYPE_CHECKING

from placement.habits import leader
from placement.heat import count
from placement.messages import Copy
from placement.score import density, worth
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
#: nobody is brought to a seat whom less than this speaks for
LIKELY = 0.25
#: of those asked for most often, so many are brought near at a time
FEW = 2


def foresee(state: State, _items: Iterable[Item], now_s: float, limits: Limits) -> Iterator[Command]:
    """Bring to a seat who is likely to be asked for next, one at a time per engine.

    It takes the seat of surplus that is worth less, and nobody's where a want waits.
    """
    told = state.habits.likely
    if not limits.foresees or max(told.values(), default=0.0) < LIKELY:
        return
    bookings = Bookings(state, now_s, limits, ahead=True)
    busy = _arriving(state) | state.lines.keys()
    for value, item in sorted(_foretold(state, now_s, limits), reverse=True):
        goal, name = state.goal(item), state.items[item].name
        if goal in busy:
            continue
        bookings.bar = value / MARGIN
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
        if item is None or likely < LIKELY or item in state.retired or item in state.unloads:
            continue
        goal = state.goal(item)
        fresh = now_s - last_s < state.idle_s(item)
        if fresh and goal.tier is Tier.VRAM and (item, goal) not in state.replicas:
            yield worth(state, item, goal, now_s, limits).total, item


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
    far: dict[Place, list[Item]] = {}
    for item in state.heat:
        if (near := _near(state, item, now_s)) is not None:
            far.setdefault(near, []).append(item)
    busy = {place.node for place in _arriving(state) if place.tier is Tier.RAM}
    busy |= {place.node for place in state.lines}
    for near in sorted(far):
        if near.node not in busy:
            yield from _keep_near(state, near, far[near], now_s, limits)


def _keep_near(state: State, near: Place, far: list[Item], now_s: float, limits: Limits) -> Iterator[Command]:
    memory = state.asks.best
    often = nlargest(FEW, far, key=lambda item: (count(state, item, memory), item))
    valued = sorted(((density(state, item, near, now_s, limits), item) for item in often), reverse=True)
    bookings = Bookings(state, now_s, limits, ahead=True)
    for value, item in valued:
        if value <= 0:
            return
        bookings.bar = value / NEAR_MARGIN
        told = worth(state, item, near, now_s, limits)
        yield from bring(state, item, near, f"kept near: {told}", bookings, now_s)


def _near(state: State, item: Item, now_s: float) -> Place | None:
    """Return the main memory beside an adapter's engine, if the adapter is neither there nor seated."""
    spec, goal = state.items[item], state.goal(item)
    near = Place(goal.node, Tier.RAM)
    if (
        spec.kind != "adapter"
        or goal.tier is not Tier.VRAM
        or near not in state.rooms
        or item in state.retired
    ):
        return None
    held = (item, near) in state.replicas or (item, goal) in state.replicas
    sent_down = item in state.unloads or item in state.lowered
    return None if held or sent_down or now_s - state.uses[item] >= state.idle_s(item) else near


def _arriving(state: State) -> set[Place]:
    """Return the places to which something is being copied."""
    return {op.command.target for op in state.ops.values() if isinstance(op.command, Copy)}
