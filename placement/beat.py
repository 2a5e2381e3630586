"""Observed over remembered: what a node's beat changes in what we believe it holds."""

import math
from collections.abc import Mapping
from dataclasses import replace

from placement.change import end_ops, lift_pauses, put, touch, use, without
from placement.errors import UserError
from placement.heat import asked
from placement.messages import Beat, Seen
from placement.pressure import is_overfull, press
from placement.state import Item, Limits, Node, Place, Replica, State
from placement.warmth import follow

Changes = dict[tuple[Item, Place], Replica | None]


def observe(draft: State, beat: Beat, now_s: float, limits: Limits) -> None:
    """Take in a beat; places that it does not list are left alone.

    An answer older than what we know changes nothing: a replica or an op that began after the beat was asked
    for is not judged by it, nor is a place by a beat older than its latest. A beat of a lost node that was
    asked for after the loss brings the node back. Unknown items are listed as strangers: they take room.
    """
    node = draft.nodes.get(beat.node)
    if node is None:
        raise UserError("TRC021", f"a beat of {beat.node}, which never joined")
    foreign = sorted(str(place) for place in beat.places if place.node != beat.node)
    if foreign:
        raise UserError("TRC021", f"a beat of {beat.node} cannot tell about {', '.join(foreign)}")
    if not node.alive and beat.asked_s <= node.since_s:
        return
    fresh = [place for place in beat.places if _is_fresh(draft, place, node, beat.asked_s)]
    changes: Changes = {}
    for place in fresh:
        _look(draft, place, beat.places[place], beat.asked_s, now_s, changes)
        _meet(draft, place, beat.places[place])
    since_s = node.since_s if node.alive else beat.asked_s
    heard = Node(True, since_s, max(beat.asked_s, node.last_beat_s))
    draft.nodes = {**draft.nodes, beat.node: heard}
    if not node.alive:
        touch(draft, beat.node)
        lift_pauses(draft, beat.node, now_s)
    seen = draft.own("seen")
    for place in fresh:
        seen[place] = beat.asked_s
    _measure(draft, beat, fresh)
    _take_in(draft, changes, now_s, limits)
    over = [place for place in fresh if is_overfull(draft, place)]
    if over:
        draft.over |= set(over)
    press(draft, fresh, now_s, limits)


def _meet(draft: State, place: Place, shown: Mapping[Item, Seen]) -> None:
    """List what a place holds and nobody registered."""
    unknown = {item: shown[item].nbytes for item in sorted(item for item in shown if item not in draft.items)}
    if unknown:
        draft.strangers = {**draft.strangers, place: unknown}
    else:
        draft.strangers = without(draft.strangers, place)


def _measure(draft: State, beat: Beat, fresh: list[Place]) -> None:
    """Take in the gauges of a beat: a place that it lists without one is no longer measured."""
    told = {place: beat.gauges[place] for place in fresh if beat.gauges.get(place)}
    if told != {place: draft.gauges[place] for place in fresh if place in draft.gauges}:
        draft.gauges = {**without(draft.gauges, *fresh), **told}


def _is_fresh(state: State, place: Place, node: Node, asked_s: float) -> bool:
    """Tell whether a beat may speak of a place: later than its latest beat, or than all we did there.

    A first beat that could not tell about what is being removed would open the place with a hole in the
    picture.
    """
    if place in state.seen:
        return asked_s > state.seen[place]
    return asked_s >= node.since_s and asked_s > state.settled.get(place, -math.inf)


def _look(
    state: State, place: Place, shown: Mapping[Item, Seen], asked_s: float, now_s: float, changes: Changes
) -> None:
    """Add what changes at one place; what is found counts as known since now, whenever it was seen."""
    shelf = state.shelves.get(place, {})
    for item in shelf:
        old, seen = state.replicas[item, place], shown.get(item)
        if seen is not None:
            new = _present(old, seen, asked_s, serves=state.serves(item, place))
            if old.phase != "ready" and asked_s > old.since_s and _in_flight(state, old) != "leaving":
                new = replace(new, phase="ready", since_s=now_s, op="")
            if new is not old:
                changes[item, place] = new
        elif asked_s > old.since_s and _in_flight(state, old) != "loading":
            changes[item, place] = None
    if asked_s <= state.settled.get(place, -math.inf):
        return
    for item in shown:
        if item not in shelf and item in state.items:
            if place not in state.rooms and place != state.items[item].durable:
                continue
            serves = state.serves(item, place)
            found = Replica("ready", now_s, -math.inf if serves else now_s)
            changes[item, place] = _present(found, shown[item], asked_s, serves=serves)


def _in_flight(state: State, replica: Replica) -> str:
    """Return the phase of a replica whose op is open, "" if it has none."""
    return replica.phase if replica.op in state.ops else ""


def _present(old: Replica, seen: Seen, asked_s: float, *, serves: bool) -> Replica:
    """Return the replica as seen; only where the item serves does being there count as being used."""
    used_s = old.used_s
    if serves:
        used_s = max(used_s, asked_s if seen.leases else asked_s - seen.idle_s)
    if used_s == old.used_s and seen.leases == old.leases and seen.hits == old.hits:
        return old
    owed = old.owed - min(_fresh(old.hits, seen.hits), old.owed)
    return Replica(old.phase, old.since_s, used_s, seen.leases, seen.hits, old.op, owed)


def _fresh(before: int, hits: int) -> int:
    """Return how many uses a count shows that it did not show before; one that fell began anew."""
    return hits - before if hits >= before else hits


def _is_owed(draft: State, item: Item, there: Place) -> bool:
    """Tell whether a want that was granted an item elsewhere has not been seen there yet."""
    return any(replica.owed for place, replica in draft.at(item) if place != there)


def _take_in(draft: State, changes: Changes, now_s: float, limits: Limits) -> None:
    """Take in the changes of a beat, and what follows: uses, missing files, ops that ended."""
    if not changes:
        return
    used: list[Item] = []
    told: list[tuple[float, Item, int]] = []
    ended: list[str] = []
    arrived: list[tuple[Item, Place]] = []
    there: list[Item] = []
    for (item, place), new in changes.items():
        old = draft.replicas.get((item, place))
        if old is not None and old.op and (new is None or not new.op):
            ended.append(old.op)
        if new is None:
            draft.own("settled")[place] = now_s
            if place == draft.items[item].durable:
                draft.gone = {**draft.gone, item: now_s}
            continue
        if new.phase == "ready" and (old is None or old.phase == "loading"):
            arrived.append((item, place))
        # Arriving somewhere is no use: only a lease or a hit keeps an item from going idle.
        # what is seen again after its node was lost, or was left out once, has been counted before
        before = old.hits if old else new.hits if item in draft.heat else 0
        fresh = _fresh(before, new.hits)
        if draft.serves(item, place) and (new.leases or fresh):
            use(draft, item, max(draft.uses[item], new.used_s))
            told.append((new.used_s, item, fresh - (old.owed - new.owed if old else 0)))
            if old is not None and (fresh or not old.leases):
                used.append(item)
            if old is not None and old.owed and not new.owed and not _is_owed(draft, item, place):
                there.append(item)  # whoever it was granted to has come
    draft.backoff = without(draft.backoff, *arrived)
    draft.expected = without(draft.expected, *used)
    draft.holds = without(draft.holds, *there)
    again = [item for item in used if item in draft.unloads and draft.unloads[item].done]
    draft.unloads = without(draft.unloads, *again)
    since = draft.lowered
    draft.lowered = without(since, *(item for used_s, item, _ in told if used_s > since.get(item, used_s)))
    end_ops(draft, ended)
    put(draft, changes)
    for _, item, times in sorted(told):
        if times:
            asked(draft, item, times)
    follow(draft, used, now_s, limits)
