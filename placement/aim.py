"""Which of a base's engines an item is to be ready in, where there are several: the least busy one."""

from collections.abc import Iterable
from itertools import takewhile

from placement.change import line_up, without
from placement.heat import MEMORIES, count
from placement.pressure import left
from placement.state import Item, Place, State

#: by which memory engines are compared: long enough that chance does not tip the scales
MEMORY = MEMORIES.index(400)


def aim(state: State, item: Item) -> Place:
    """Return where a want for an item makes it ready from now on.

    Where it is ready, or else on its way, it stays, at its home before elsewhere. A cold one goes to the
    engine that can take it and has a free seat: home, or where fewest wait, or least is asked for. It keeps
    its turn in a line for as long as no other engine could take it at once.
    """
    spec, now = state.items[item], state.goal(item)
    if spec.kind != "adapter" or len(spec.serves_at) < 2:
        return now
    ordered, home = state.moves.get(item), state.home(item)
    if ordered is not None and ordered.to in spec.serves_at:
        return ordered.to
    for phase in ("ready", "loading"):
        held = [place for place in spec.serves_at if _phase(state, item, place) == phase]
        if held:
            return min(held, key=lambda at: (at != home, at != now, state.replicas[item, at].leases))
    best = min(spec.serves_at, key=lambda at: (*_shut(state, item, at), at != home, *_load(state, item, at)))
    waits = item in state.queue and now in spec.serves_at
    return now if waits and _shut(state, item, now) <= _shut(state, item, best) else best


def aim_anew(draft: State, items: Iterable[Item]) -> None:
    """Have these items be made ready where `aim` says now."""
    for item in list(items):
        spec = draft.items.get(item)
        if spec is None:
            continue
        if spec.kind != "adapter" or len(spec.serves_at) < 2:
            draft.aims = without(draft.aims, item)
            continue
        place = aim(draft, item)
        if draft.aims.get(item) != place:
            draft.aims = {**draft.aims, item: place}
            draft.changed[item] = None
            line_up(draft, item)  # whoever is aimed after it sees who waits where


def _heat_at(state: State, place: Place, base: str) -> float:
    """Return how many of the lab's latest asks went to the items of a base that are at a place."""
    shelf = state.shelves.get(place, {})
    return sum(count(state, item, MEMORY) for item in shelf if state.items[item].base == base)


def _phase(state: State, item: Item, place: Place) -> str:
    replica = state.replicas.get((item, place))
    return replica.phase if replica is not None and state.alive(place.node) else ""


def _shut(state: State, item: Item, place: Place) -> tuple[bool, bool, bool, bool, bool]:
    """Tell why an engine cannot take an item now, the worst first.

    It is lost, failed for good, has not told of itself, failed a moment ago, or has no seat left besides for
    those who wait there already.
    """
    spec, failed = state.items[item], state.backoff.get((item, place))
    if not state.alive(place.node):
        return True, True, True, True, True
    for_good = failed is not None and failed.permanent
    if place not in state.rooms or place not in state.seen:
        return False, for_good, True, True, True
    seats = state.rooms[place].seats.get(spec.base, 0) - state.seated(place, spec.base)
    full = seats <= _before(state, item, place) or left(state, place) < spec.nbytes
    return False, for_good, False, state.blocked(item, place, state.now_s) is not None, full


def _before(state: State, item: Item, place: Place) -> int:
    """Return how many of the same base wait for a seat of an engine before an item does."""
    base = state.items[item].base
    waiting = takewhile(lambda other: other != item, state.lines.get(place, ()))
    return sum(state.items[one].base == base and (one, place) not in state.replicas for one in waiting)


def _load(state: State, item: Item, place: Place) -> tuple[int, float, int]:
    """Return how busy an engine is: who waits for it, how hot its items are, how many seats it has given."""
    base = state.items[item].base
    waiting = sum(other != item for other in state.lines.get(place, ()))
    return waiting, _heat_at(state, place, base), state.seated(place, base)
