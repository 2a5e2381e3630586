"""What ought to be done: each policy looks at a state and suggests; `placement.plan` admits."""

import math
from collections.abc import Callable, Iterable, Iterator

from placement.foresight import foresee, keep_near
from placement.messages import Command, Copy, Drop, Grant, Refuse
from placement.plan import objections
from placement.pressure import crowded
from placement.rebalance import rebalance
from placement.relief import relieve
from placement.roster import remains
from placement.routes import best_source, next_leg, on_the_way, setback
from placement.seating import Bookings, bring, copy
from placement.state import NETWORK, Item, Limits, Place, State, Want
from placement.units import format_seconds
from placement.warmth import failed_for_good

#: `items` are those that the event touched, on a Tick those that are due: what they miss waits for a Tick
Policy = Callable[[State, Iterable[Item], float, Limits], Iterator[Command]]


def serve_wants(
    state: State,
    items: Iterable[Item],
    now_s: float,
    limits: Limits,
) -> Iterator[Command]:
    """Make wanted items ready where they serve, one copy for all who want it, and end each want once.

    That is of these items, and of those that are wanted at the same places. Who waits longest comes first,
    and once no seat is to be had, nobody else is tried there. A want that finds all seats in use for
    `drain_after_s` has one drained.
    """
    bookings = Bookings(state, now_s, limits)
    over = set[Item]()
    for item in items:
        wants = state.queue.get(item, ())
        served = state.served_at(item) if wants else None
        if served is not None:
            over.add(item)
            yield from (Grant(want.want, item, served) for want in wants)
            continue
        lost = hopeless(state, item) if wants else None
        late = [want for want in wants if lost is not None or now_s >= want.deadline_s]
        if len(late) == len(wants):
            over.add(item)
        for want in late:
            yield Refuse(want.want, item, *(lost or _too_late(state, want, now_s, limits)))
    at_addresses = [item for item in items if item in state.queue and state.landing(item) is not None]
    for place in dict.fromkeys(state.goal(item) for item in items if not _is_behind(state, item, now_s)):
        # as many as can be on their way at once have room made for them meanwhile, and no more begin
        turns, begin = 2 * limits.copies_per_place, limits.copies_per_place
        begin -= state.tallies[place].loading if place in state.tallies else 0
        for item in state.lines.get(place, ()):
            if item not in over and (suggested := _bring_wanted(state, item, place, bookings, now_s, limits)):
                yield from suggested
                over.add(item)
                turns -= 1
                begin -= isinstance(suggested[0], Copy) and suggested[0].target == place
            if not turns or begin < 0 or bookings.is_closed(place):
                break
    for item in at_addresses:
        if item not in over and bookings.is_closed(state.goal(item)):
            yield from _bring_wanted(state, item, state.goal(item), bookings, now_s, limits)


def _bring_wanted(
    state: State, item: Item, place: Place, bookings: Bookings, now_s: float, limits: Limits
) -> list[Command]:
    if (item, place) in state.replicas:
        return []
    spec = state.items[item]
    who = "role" if spec.kind == "adapter" else "shard"
    first = state.queue[item][0]
    reason = f"asked for by {first.cause or f'{who} {spec.name}'}"
    patient = now_s - first.since_s >= limits.drain_after_s
    return list(bring(state, item, place, reason, bookings, now_s, drains=patient))


def _is_behind(state: State, item: Item, now_s: float) -> bool:
    """Tell whether a want for the item waits for a seat where none is free, and others get what comes."""
    place = state.goal(item) if item in state.queue else None
    if place is None or (item, place) in state.replicas or not state.takes_seat(item, place):
        return False
    base = state.items[item].base
    if place not in state.rooms or state.seated(place, base) < state.rooms[place].seats.get(base, 0):
        return False
    coming = state.tallies[place].leaving if place in state.tallies else 0
    for other in state.lines[place]:
        if other == item:
            return False
        waits = (other, place) not in state.replicas and state.items[other].base == base
        if waits and not state.blocked(other, place, now_s) and best_source(state, other, place) is not None:
            coming -= 1
            if coming < 0:
                return True
    return False


def keep_home(state: State, items: Iterable[Item], now_s: float, limits: Limits) -> Iterator[Command]:
    """Have each item ready where it should rest, and its durable copy whole.

    Somebody else is evicted only for a pinned item or an ordered move. A place where a want, a pin or a move
    waits for room is left to them, and so is one whose memory would be filled beyond its mark.
    """
    missing: dict[Item, Place] = {}
    away = sorted(item for item in state.pins if state.due.get(item) == -math.inf)
    for item in dict.fromkeys((*state.moves, *away, *items)):
        if item in state.retired:
            continue
        if item in state.gone and state.items[item].kind == "adapter":
            yield from copy(state, item, state.items[item].durable, "its durable copy is missing")
        rest = _stage(state, item, now_s)
        if (item, rest) not in state.replicas and rest in state.rooms:
            missing[item] = rest
    if not missing:
        return
    bookings = Bookings(state, now_s, limits)
    urgent = [item for item in missing if item in state.moves or state.pinned(item)]
    for item in urgent:
        ordered = state.moves.get(item)
        reason = f"moved by {ordered.cause}" if ordered else "pinned there"
        yield from bring(state, item, missing[item], reason, bookings, now_s)
    kept_free = _waited_for(state) | bookings.waiting
    for item, rest in missing.items():
        idle = f"idle for {state.idle_s(item):.0f} s; it rests at {rest}"
        reason = f"it rests at {rest}, its home" if rest == state.home(item) else idle
        for suggested in copy(state, item, rest, reason):
            target = suggested.target
            if target not in kept_free and not crowded(state, target, suggested.nbytes, limits):
                yield suggested


def _stage(state: State, item: Item, now_s: float) -> Place:
    """Return where the item should be next: of a move the landing, then its end; else where it rests."""
    ordered = state.moves.get(item)
    if ordered is None:
        return state.rest(item, now_s)
    landing = ordered.landing
    return ordered.to if landing is None or state.ready(item, landing) else landing


def warm_ahead(state: State, items: Iterable[Item], now_s: float, limits: Limits) -> Iterator[Command]:
    """Bring up what is to be warm, in the room that nobody needs: below the high mark, and that of surplus.

    That is what is to be warm where one of these items serves. A place where a want or a move waits is left
    to it.
    """
    if not state.warms:
        return
    bookings = Bookings(state, now_s, limits, ahead=True)
    near = {state.goal(item) for item in items}
    if not any(state.goal(item) in near for item in state.warms):
        return
    claimed = _waited_for(state) | {_stage(state, item, now_s) for item in state.moves}
    for item, order in state.warms.items():
        goal = state.goal(item)
        if goal in near and goal not in claimed:
            yield from bring(state, item, goal, f"warmed: {order.cause}", bookings, now_s, order.since_s)


def finish_moves(
    state: State,
    _items: Iterable[Item],
    _now_s: float,
    _limits: Limits,
) -> Iterator[Command]:
    """Drop what an ordered move left behind, once the item is ready at its new home."""
    for item, places in state.leaves.items():
        home = state.home(item)
        if item not in state.moves and state.ready(item, home):
            yield from (Drop("", item, place, f"moved to {home}") for place in sorted(places))


def evict_idle(state: State, items: Iterable[Item], now_s: float, _limits: Limits) -> Iterator[Command]:
    """Drop replicas that were idle for `idle_s` where the item does not rest, once it is ready where it does.

    A shard has one serving index, and a place that is overfull cannot wait: there, nothing has to be idle
    first; nor has what a person unloads. What was brought up, or came from an address, is idle when its last
    use was long ago.
    """
    for item in items:
        spec, places = state.items[item], state.spots.get(item, ())
        if len(places) == 1 or item in state.retired:
            continue
        rest = state.rest(item, now_s)
        if not state.ready(item, rest):
            continue
        stays = state.keeps(item, rest)
        ordered = state.unloads.get(item)
        for place in places:
            used_s = state.replicas[item, place].used_s
            brought = spec.durable == NETWORK or place.tier.height > rest.tier.height
            idle_s = now_s - (max(used_s, state.uses[item]) if brought else used_s)
            due = idle_s >= state.idle_s(item) or spec.kind == "shard" or place in state.over
            if (due or ordered is not None) and place not in stays:
                why = f"unloaded by {ordered.cause}" if ordered else f"idle for {idle_s:.0f} s"
                yield Drop("", item, place, f"{why}; it rests at {rest}")


def clear_removed(
    state: State,
    _items: Iterable[Item],
    _now_s: float,
    _limits: Limits,
) -> Iterator[Command]:
    """Drop everything of items that left the lab, the log of a shard excepted."""
    for item in sorted(state.retired):
        stays, newer = remains(state, item), state.versions.get(state.items[item].name, item)
        why = "removed from the lab" if newer == item else f"{newer} replaced it"
        for place in state.spots.get(item, ()):
            if place not in stays:
                yield Drop("", item, place, why)


DEFAULT: tuple[Policy, ...] = (
    serve_wants,
    finish_moves,
    relieve,
    keep_home,
    warm_ahead,
    foresee,
    keep_near,
    rebalance,
    evict_idle,
    clear_removed,
)


def _waited_for(state: State) -> set[Place]:
    """Return the places where a want waits for its item to be brought."""
    found = set[Place]()
    for goal, line in state.lines.items():
        if any((item, goal) not in state.replicas for item in line):
            found.add(goal)
        for item in line:
            staged = state.items[item].landing is not None or item in state.moves
            leg = next_leg(state, item, goal) if staged and (item, goal) not in state.replicas else None
            if leg is not None:
                found.add(leg[1])
    return found


def hopeless(state: State, item: Item, goal: Place | None = None) -> tuple[str, str] | None:
    """Return code and reason if waiting cannot help a want for an item that is not served now.

    `goal` is where it would be made ready; by default where it is aimed at.
    """
    goal, spec = goal or state.goal(item), state.items[item]
    if item in state.retired:
        return "TRC025", f"{item} was removed from the lab"
    failed = failed_for_good(state, item)
    if failed is not None:
        return failed.code, failed.reason
    if _is_lost(state, goal):
        return "TRC013", f"{goal.node}, where {item} is served, is lost ({state.nodes[goal.node].why})"
    if (item, goal) in state.replicas or best_source(state, item, goal) is not None:
        return None
    if spec.durable == NETWORK:
        landing = state.landing(item)
        if landing is None or not _is_lost(state, landing):
            return None
        why = state.nodes[landing.node].why
        return "TRC013", f"{item} lands on {landing.node} from its address, and that is lost ({why})"
    if item in state.gone:
        return "TRC014", f"no copy of {item} is left: its file at {spec.durable} is missing"
    if _is_lost(state, spec.durable):
        why = state.nodes[spec.durable.node].why
        return "TRC013", f"the durable copy of {item} is on {spec.durable.node}, which is lost ({why})"
    return None


def _is_lost(state: State, place: Place) -> bool:
    return place.node in state.nodes and not state.alive(place.node)


def _too_late(state: State, want: Want, now_s: float, limits: Limits) -> tuple[str, str]:
    """Return code and reason, with numbers, for a want whose deadline has passed."""
    item, goal = want.item, state.goal(want.item)
    leg, replica = next_leg(state, item, goal), state.replicas.get((item, goal))
    stages = on_the_way(state, item, goal)
    failed = setback(state, item, goal)
    coming = next((place for place in stages if (item, place) in state.replicas), goal)
    if replica is None and leg is None:
        replica = state.replicas.get((item, coming))
    if replica is not None:
        told = f"it is {replica.phase} at {coming} since {format_seconds(now_s - replica.since_s)}"
    elif leg is None:
        told = f"no copy can be read: its durable copy is at {state.items[item].durable}"
    else:
        copied = Copy("", item, leg[0], leg[1], state.items[item].nbytes, "")
        told = "; ".join(objections(state, copied, now_s, limits))
        if not told and failed is not None:
            told = f"the last try failed: {failed}"
    waited_s = format_seconds(now_s - want.since_s)
    return "TRC012", f"{item} was not ready at {goal} within {waited_s}: {told or 'its turn had not come'}"
