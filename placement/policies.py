"""What ought to be done: each policy looks at a state and suggests; `placement.plan` admits."""

from collections.abc import Callable, Iterable, Iterator

from placement.messages import Command, Copy, Drop, Grant, Refuse
from placement.plan import objections
from placement.routes import best_source
from placement.seating import Bookings
from placement.state import Item, Limits, Place, State, Want
from placement.units import format_seconds

#: `items` are those that the event touched, and all on a Tick; what they miss waits for the next Tick
Policy = Callable[[State, Iterable[Item], float, Limits], Iterator[Command]]


def serve_wants(
    state: State,
    _items: Iterable[Item],
    now_s: float,
    limits: Limits,
) -> Iterator[Command]:
    """Make wanted items ready where they serve, one copy for all who want it, and end each want once."""
    asked: dict[Item, list[Want]] = {}
    for want in state.wants.values():
        asked.setdefault(want.item, []).append(want)
    bookings = Bookings(state, now_s, limits)
    for item, wants in asked.items():
        served = state.served_at(item)
        if served is not None:
            yield from (Grant(want.want, item, served) for want in wants)
            continue
        hopeless = _hopeless(state, item)
        waiting = [want for want in wants if hopeless is None and now_s < want.deadline_s]
        for want in wants:
            if want not in waiting:
                yield Refuse(want.want, item, *(hopeless or _too_late(state, want, now_s, limits)))
        if waiting:
            spec = state.items[item]
            who = "role" if spec.kind == "adapter" else "shard"
            yield from _bring(
                state, item, state.goal(item), f"asked for by {who} {spec.name}", bookings, now_s
            )


def keep_home(state: State, items: Iterable[Item], now_s: float, limits: Limits) -> Iterator[Command]:
    """Have each item ready where it should rest, and its durable copy whole.

    Somebody else is evicted only for a pinned item or an ordered move. A place where a want, a pin or a move
    waits for room is left to them.
    """
    missing: dict[Item, Place] = {}
    for item in dict.fromkeys((*state.moves, *sorted(state.pins), *items)):
        if item in state.retired:
            continue
        if item in state.gone and state.items[item].kind == "adapter":
            yield from _copy(state, item, state.items[item].durable, "its durable copy is missing")
        rest = state.rest(item, now_s)
        if (item, rest) not in state.replicas and rest in state.rooms:
            missing[item] = rest
    bookings = Bookings(state, now_s, limits)
    urgent = [item for item in missing if item in state.moves or state.pinned(item)]
    for item in urgent:
        ordered = state.moves.get(item)
        reason = f"moved by {ordered.cause}" if ordered else "pinned there"
        yield from _bring(state, item, missing[item], reason, bookings, now_s)
    wanted = {want.item: state.goal(want.item) for want in state.wants.values()}
    kept_free = {place for item, place in wanted.items() if (item, place) not in state.replicas}
    for item, rest in missing.items():
        if rest not in bookings.waiting and rest not in kept_free:
            idle = "" if rest == state.home(item) else f"idle for {state.items[item].idle_s:.0f} s; "
            yield from _copy(state, item, rest, f"{idle}it rests at {rest}")


def finish_moves(
    state: State,
    _items: Iterable[Item],
    _now_s: float,
    _limits: Limits,
) -> Iterator[Command]:
    """Drop what an ordered move left behind, once the item is ready at its new home."""
    for item, places in state.leaves.items():
        home = state.home(item)
        if state.ready(item, home):
            yield from (Drop("", item, place, f"moved to {home}") for place in sorted(places))


def evict_idle(state: State, items: Iterable[Item], now_s: float, _limits: Limits) -> Iterator[Command]:
    """Drop replicas that were idle for `idle_s` where the item does not rest, once it is ready where it does.

    A shard has one serving index, and a place that is overfull cannot wait: there, nothing has to be idle
    first.
    """
    for item in items:
        spec, places = state.items[item], state.spots.get(item, ())
        if len(places) == 1 or item in state.retired:
            continue
        rest = state.rest(item, now_s)
        if not state.ready(item, rest):
            continue
        for place in places:
            idle_s = now_s - state.replicas[item, place].used_s
            due = idle_s >= spec.idle_s or spec.kind == "shard" or place in state.over
            if due and place not in (rest, spec.durable):
                yield Drop("", item, place, f"idle for {idle_s:.0f} s; it rests at {rest}")


def clear_removed(
    state: State,
    _items: Iterable[Item],
    _now_s: float,
    _limits: Limits,
) -> Iterator[Command]:
    """Drop everything of items that left the lab, the log of a shard excepted."""
    for item in sorted(state.retired):
        spec = state.items[item]
        for place in state.spots.get(item, ()):
            if spec.kind == "adapter" or place != spec.durable:
                yield Drop("", item, place, "removed from the lab")


DEFAULT: tuple[Policy, ...] = (serve_wants, finish_moves, keep_home, evict_idle, clear_removed)


def _bring(
    state: State, item: Item, place: Place, reason: str, bookings: Bookings, now_s: float
) -> Iterator[Command]:
    """Suggest the copy if there is room at the place, else the drops that make room for it."""
    if (
        (item, place) in state.replicas
        or place not in state.rooms
        or state.blocked(item, place, now_s) is not None
    ):
        return
    source = best_source(state, item, place)
    if source is None:
        return
    booking = bookings.book(item, place)
    if booking.now:
        yield Copy("", item, source, place, state.items[item].nbytes, reason)
    for victim in booking.victims:
        yield Drop("", victim, place, f"makes room for {state.items[item].name}: {reason}")


def _copy(state: State, item: Item, place: Place, reason: str) -> Iterator[Command]:
    source = None if (item, place) in state.replicas else best_source(state, item, place)
    if source is not None:
        yield Copy("", item, source, place, state.items[item].nbytes, reason)


def _hopeless(state: State, item: Item) -> tuple[str, str] | None:
    """Return code and reason if waiting cannot help a want for an item that is not served now."""
    goal, spec = state.goal(item), state.items[item]
    if item in state.retired:
        return "TRC025", f"{item} was removed from the lab"
    setback = state.backoff.get((item, goal))
    if setback is not None and setback.permanent:
        return setback.code, setback.reason
    if goal.node in state.nodes and not state.alive(goal.node):
        return "TRC013", f"{goal.node}, where {item} is served, is lost ({state.nodes[goal.node].why})"
    if (item, goal) in state.replicas or best_source(state, item, goal) is not None:
        return None
    if item in state.gone:
        return "TRC014", f"no copy of {item} is left: its file at {spec.durable} is missing"
    if spec.durable.node in state.nodes and not state.alive(spec.durable.node):
        why = state.nodes[spec.durable.node].why
        return "TRC013", f"the durable copy of {item} is on {spec.durable.node}, which is lost ({why})"
    return None


def _too_late(state: State, want: Want, now_s: float, limits: Limits) -> tuple[str, str]:
    """Return code and reason, with numbers, for a want whose deadline has passed."""
    item, goal = want.item, state.goal(want.item)
    source, replica = best_source(state, item, goal), state.replicas.get((item, goal))
    setback = state.backoff.get((item, goal))
    if replica is not None:
        told = f"it is {replica.phase} at {goal} since {format_seconds(now_s - replica.since_s)}"
    elif source is None:
        told = f"no copy can be read: its durable copy is at {state.items[item].durable}"
    else:
        copy = Copy("", item, source, goal, state.items[item].nbytes, "")
        told = "; ".join(objections(state, copy, now_s, limits))
        if not told and setback is not None:
            told = f"the last try failed: {setback}"
    waited_s = format_seconds(now_s - want.since_s)
    return "TRC012", f"{item} was not ready at {goal} within {waited_s}: {told or 'its turn had not come'}"
