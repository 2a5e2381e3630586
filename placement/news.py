"""What an event told about items, in words for their stories."""

from collections.abc import Iterator, Mapping

from placement.messages import (
    Beat,
    Copied,
    CopyFailed,
    Dropped,
    DropRefused,
    Event,
    NodeJoined,
    NodeLost,
    Registered,
    Tick,
    UnloadOrdered,
    Wanted,
    WantEnded,
    WarmOrdered,
    describe,
)
from placement.plan import no_room
from placement.routes import setback
from placement.state import Item, Move, Place, State
from placement.warmth import Unload


def news(
    before: State, after: State, event: Event, op_items: Mapping[str, Item]
) -> Iterator[tuple[Item, str]]:
    """Yield what an event says about an item; of a node's news and a Tick, what they changed.

    `op_items` are the items of earlier ops, for answers that come late.
    """
    match event:
        case Copied(op) | CopyFailed(op) | Dropped(op) | DropRefused(op):
            if op in op_items and op not in before.ops:
                yield op_items[op], f"{describe(event)}; too late, a beat decides"
        case Registered(spec):
            yield spec.item, describe(event)
        case Wanted():
            pass
        case WantEnded(want):
            if want in before.wants:
                yield before.wants[want].item, describe(event)
        case NodeJoined() | NodeLost() | Beat() | Tick():
            yield from _reached(before, after)
            yield from _changes(before, after, describe(event))
        case _:
            yield event.item, describe(event)
    for item, move in before.moves.items():
        if item in after.items and item not in after.moves:
            yield item, _end_of(move, after, item)
            yield from _resettled(before, after, item)


def warmth(before: State, after: State, event: Event) -> Iterator[tuple[Item, str]]:
    """Yield which warm and unload orders began by themselves, and how others ended."""
    warmed = [event.item] if isinstance(event, WarmOrdered) else []
    if warmed or before.warms is not after.warms:
        for item, order in after.warms.items():
            if item not in warmed and item not in before.warms:
                yield item, f"to be warm: {order.cause}"
        for item in dict.fromkeys((*before.warms, *warmed)):
            if item in after.items and item not in after.warms:
                yield item, _end_of_warm(after, item)
    unloaded = [event.item] if isinstance(event, UnloadOrdered) else []
    if not unloaded and before.unloads is after.unloads:
        return
    for item in dict.fromkeys((*before.unloads, *unloaded)):
        if item in after.items:
            yield from _unloaded(before.unloads.get(item), after, item)


def _end_of(move: Move, after: State, item: Item) -> str:
    if after.ready(item, move.to):
        return f"move to {move.to} done"
    return f"move to {move.to} undone{_because(after, item, move.to)}"


def _resettled(before: State, after: State, item: Item) -> Iterator[tuple[Item, str]]:
    was, now = before.items[item], after.items[item]
    if was.durable != now.durable:
        yield item, f"its durable copy is at {now.durable} now, and no longer at {was.durable}"
    if was.landing != now.landing:
        yield item, f"from its address it lands at {now.landing} now, and no longer at {was.landing}"


def _because(after: State, item: Item, place: Place) -> str:
    failed = setback(after, item, place)
    return f": {failed}" if failed is not None else ""


def _end_of_warm(after: State, item: Item) -> str:
    goal = after.goal(item)
    if after.ready(item, goal):
        return f"warm at {goal}"
    if item in after.retired or item in after.unloads:
        return "no longer to be warm"
    why = _because(after, item, goal)
    if not why and (crowd := no_room(after, item, goal)):
        why = f": {crowd}"
    return f"not warm at {goal} in time{why}"


def _unloaded(was: Unload | None, after: State, item: Item) -> Iterator[tuple[Item, str]]:
    order = after.unloads.get(item)
    if order is not None and order.done and not (was is not None and was.done):
        yield item, f"unloaded: it rests at {after.idle_home(item)}"
    elif order is None and was is not None and not was.done:
        leases = sum(replica.leases for _, replica in after.at(item))
        held = f", {leases} lease{'s' if leases > 1 else ''} held" if leases else ""
        yield item, f"not unloaded: used again, or not idle in time{held}"


def _loss(after: State, place: Place) -> str:
    """Return why what was at a place is out of reach, "" if its node lives."""
    node = after.nodes.get(place.node)
    return "" if node is None or node.alive else f"node {place.node} is lost: {node.why}"


def _reached(before: State, after: State) -> Iterator[tuple[Item, str]]:
    """Yield of each item what of it a node that was lost, or is back, still holds: its durable copy."""
    for name, node in after.nodes.items():
        was = before.nodes.get(name)
        if was is None or was.alive == node.alive:
            continue
        for place in sorted(place for place in after.shelves if place.node == name):
            word = f"out of reach at {place}: {_loss(after, place)}"
            word = f"in reach again at {place}: node {name} is back" if node.alive else word
            yield from ((item, word) for item in after.shelves[place] if place in before.spots.get(item, ()))


def _changes(before: State, after: State, cause: str) -> Iterator[tuple[Item, str]]:
    if before.ops is not after.ops:
        for op, running in before.ops.items():
            if op not in after.ops:
                yield running.command.item, f"op {op} ended without an answer ({cause})"
    for item in after.changed:
        known, places = before.spots.get(item, ()), after.spots.get(item, ())
        if places is not known and item in after.items:
            for place in known:
                if place not in places:
                    yield item, f"no longer at {place} ({_loss(after, place) or cause})"
            yield from ((item, f"found at {place} ({cause})") for place in places if place not in known)
