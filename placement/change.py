"""The small steps of which `apply`, `beat` and `orders` are made: each writes to the draft it is given."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from placement.messages import Copy
from placement.state import NETWORK, Item, Limits, Node, Place, Replica, Setback, State, Want
from placement.tally import EMPTY, Tally, count, seat_of

K = TypeVar("K")
V = TypeVar("V")


def without(mapping: Mapping[K, V], *keys: K) -> Mapping[K, V]:
    """Return a copy of `mapping` that lacks `keys`, or itself if it has none of them."""
    if mapping.keys().isdisjoint(keys):
        return mapping
    left = dict(mapping)
    for key in keys:
        left.pop(key, None)
    return left


def put(draft: State, changes: Mapping[tuple[Item, Place], Replica | None]) -> None:
    """Set these replicas (or take them out, for None) and keep the indexes in step.

    A refusal to drop what was there ends with it: nothing forbids to bring it back.
    """
    if not changes:
        return
    replicas: dict[tuple[Item, Place], Replica] = draft.own("replicas")
    for key, replica in changes.items():
        item, place = key
        old = replicas.get(key)
        if replica is not None:
            replicas[key] = replica
            if old is None:
                draft.own("spots")[item] = tuple(sorted((*draft.spots.get(item, ()), place)))
                _shelve(draft, item, place, bytes_at(draft, item, place))
        elif old is not None:
            del replicas[key]
            draft.own("spots")[item] = tuple(spot for spot in draft.spots[item] if spot != place)
            _shelve(draft, item, place, None)
            if old.phase != "loading" and key in draft.backoff:
                draft.backoff = without(draft.backoff, key)
        if old is not replica:
            draft.changed[item] = None
            _tally(draft, item, place, old, replica)
    for item in draft.gone:
        durable = replicas.get((item, draft.items[item].durable))
        if durable is not None and durable.phase == "ready":
            draft.gone = without(draft.gone, item)


def _shelve(draft: State, item: Item, place: Place, nbytes: int | None) -> None:
    shelf = dict(draft.shelves.get(place, {}))
    if nbytes is None:
        del shelf[item]
    else:
        shelf[item] = nbytes
    draft.own("shelves")[place] = shelf


def _tally(draft: State, item: Item, place: Place, old: Replica | None, new: Replica | None) -> None:
    if old is not None and new is not None and old.phase == new.phase:
        return
    nbytes, base = bytes_at(draft, item, place), seat_of(draft.items[item], place)
    tally: Tally = draft.tallies.get(place, EMPTY)
    if old is not None:
        tally = tally.plus(nbytes, old.phase, base, -1)
    if new is not None:
        tally = tally.plus(nbytes, new.phase, base, 1)
    draft.own("tallies")[place] = tally


def recount(draft: State, item: Item) -> None:
    """Count anew what the places of an item hold: it has other bytes than before, or takes other seats."""
    for place in draft.spots.get(item, ()):
        _shelve(draft, item, place, bytes_at(draft, item, place))
        draft.own("tallies")[place] = count(draft, place)


def bytes_at(state: State, item: Item, place: Place) -> int:
    """Return the bytes that a replica takes of its place: a shard's log and an address take none."""
    spec = state.items[item]
    logged = spec.kind == "shard" and place == spec.durable
    return 0 if logged or place == NETWORK else spec.nbytes


def touch(draft: State, node: str) -> None:
    """Have all items looked at that a node holds: what it has is in reach again, or no longer is."""
    for place, shelf in draft.shelves.items():
        if place.node == node:
            draft.changed.update(dict.fromkeys(shelf))
    serves = (item for item in draft.aims if any(place.node == node for place in draft.items[item].serves_at))
    draft.changed.update(dict.fromkeys(serves))


def add_want(draft: State, want: Want) -> None:
    """Open a want; an item that is wanted already keeps its place in line."""
    item = want.item
    draft.own("wants")[want.want] = want
    draft.own("queue")[item] = (*draft.queue.get(item, ()), want)
    line_up(draft, item)


def end_want(draft: State, name: str) -> None:
    """End a want, if it is open."""
    ended = draft.wants.get(name)
    if ended is None:
        return
    item = ended.item
    del draft.own("wants")[name]
    draft.changed[item] = None
    others = tuple(want for want in draft.queue[item] if want is not ended)
    if others:
        draft.own("queue")[item] = others
    else:
        del draft.own("queue")[item]
        _leave_lines(draft, item)


def line_up_anew(draft: State) -> None:
    """Have who is wanted stand where a want makes it ready now; what this draft changed may have moved it."""
    for item in draft.changed:
        line_up(draft, item)


def line_up(draft: State, item: Item) -> None:
    """Have an item that is wanted stand in the line of its goal, by how long it has waited."""
    if item not in draft.queue:
        return
    goal = draft.goal(item)
    line = draft.lines.get(goal, {})
    if item not in line:
        _leave_lines(draft, item)
        ordered = sorted((*line, item), key=lambda each: draft.queue[each][0].since_s)
        draft.lines = {**draft.lines, goal: dict.fromkeys(ordered)}


def _leave_lines(draft: State, item: Item) -> None:
    for place, line in draft.lines.items():
        if item in line:
            left = without(line, item)
            draft.lines = {**draft.lines, place: left} if left else without(draft.lines, place)


def end_ops(draft: State, ops: Iterable[str]) -> None:
    """End these ops; a late answer to one is then unknown and ignored."""
    draft.ops = without(draft.ops, *ops)


def use(draft: State, item: Item, now_s: float) -> None:
    """Count a use of an item where it serves."""
    draft.own("uses")[item] = now_s
    draft.changed[item] = None


def stay(draft: State, item: Item) -> None:
    """Have an item that is called for stay where that makes it ready, whatever sent it away from there."""
    if item in draft.leaves:
        draft.leaves = {**draft.leaves, item: draft.leaves[item] - {draft.goal(item)}}


def set_back(
    draft: State, item: Item, place: Place, now_s: float, limits: Limits, why: tuple[str, str]
) -> None:
    """Let nobody try this item and place again before a pause, doubled each time."""
    failures = 1 + (old.failures if (old := draft.backoff.get((item, place))) else 0)
    pause_s = min(limits.backoff_s * 2 ** min(failures - 1, 32), limits.backoff_max_s)
    _set_back(draft, item, place, Setback(failures, now_s + pause_s, *why))


def fail_for_good(draft: State, item: Item, place: Place, why: tuple[str, str]) -> None:
    """Let nobody try this item and place until it is registered or moved anew."""
    failures = 1 + (old.failures if (old := draft.backoff.get((item, place))) else 0)
    _set_back(draft, item, place, Setback(failures, math.inf, *why))


def _set_back(draft: State, item: Item, place: Place, setback: Setback) -> None:
    draft.backoff = {**draft.backoff, (item, place): setback}
    draft.changed[item] = None


def lift_pauses(draft: State, node: str, now_s: float) -> None:
    """Let what failed on a node be tried at once, since it is back; the pause after that is longer still."""
    lifted = {
        key: replace(setback, until_s=now_s)
        for key, setback in draft.backoff.items()
        if key[1].node == node and now_s < setback.until_s < math.inf
    }
    if lifted:
        draft.backoff = {**draft.backoff, **lifted}
        draft.changed.update(dict.fromkeys(item for item, _ in lifted))


def lose_node(draft: State, node: str, reason: str, now_s: float) -> None:
    """Take a node for lost.

    What it held in RAM and VRAM is forgotten; durable copies are kept and unreachable. Replicas with an op in
    flight stay until it ends, because their bytes may still arrive if only the connection was lost.
    """
    touch(draft, node)
    draft.changed.update(dict.fromkeys(draft.queue))
    lost = {
        (item, place): None
        for place in sorted(place for place in draft.shelves if place.node == node)
        for item in draft.shelves[place]
        if draft.replicas[item, place].op not in draft.ops and place != draft.items[item].durable
    }
    old = draft.nodes[node]
    draft.nodes = {**draft.nodes, node: Node(False, now_s, old.last_beat_s, reason)}
    draft.seen = {place: at_s for place, at_s in draft.seen.items() if place.node != node}
    draft.gauges = {place: gauges for place, gauges in draft.gauges.items() if place.node != node}
    draft.pressed = {place: at_s for place, at_s in draft.pressed.items() if place.node != node}
    put(draft, lost)


def forget(draft: State, item: Item) -> None:
    """Leave no trace of a removed item."""
    put(draft, {(item, place): None for place in draft.spots.get(item, ())})
    ops = [op for op, running in draft.ops.items() if running.command.item == item]
    end_ops(draft, ops)
    follow_names(draft, item, ())
    name = draft.items[item].name
    if draft.versions.get(name) == item:
        others = [other for other, spec in draft.items.items() if spec.name == name and other != item]
        left = without(draft.versions, name)
        draft.versions = {**left, name: others[-1]} if others else left
    draft.retired -= {item}
    draft.pins -= {item}
    draft.items = without(draft.items, item)
    draft.homes = without(draft.homes, item)
    draft.spots = without(draft.spots, item)
    draft.gone = without(draft.gone, item)
    draft.moves = without(draft.moves, item)
    draft.leaves = without(draft.leaves, item)
    draft.warms = without(draft.warms, item)
    draft.unloads = without(draft.unloads, item)
    draft.lowered = without(draft.lowered, item)
    draft.uses = without(draft.uses, item)
    draft.holds = without(draft.holds, item)
    draft.aims = without(draft.aims, item)
    draft.expected = without(draft.expected, item)
    draft.patience = without(draft.patience, item)
    draft.heat = without(draft.heat, item)
    draft.due = without(draft.due, item)
    draft.backoff = {key: setback for key, setback in draft.backoff.items() if key[0] != item}


def follow_names(draft: State, item: Item, names: tuple[str, ...]) -> None:
    """Have an item follow the use of these names, and of no others."""
    old = draft.items[item].after if item in draft.items else ()
    followers = {name: items for name, items in draft.followers.items() if name not in old}
    for name in dict.fromkeys((*old, *names)):
        items = tuple(other for other in draft.followers.get(name, ()) if other != item)
        if name in names:
            items = (*items, item)
        if items:
            followers[name] = items
    draft.followers = followers


def expire_ops(draft: State, now_s: float, limits: Limits) -> None:
    """End the ops that are past their deadline.

    The outcome is unknown, so the replica keeps its phase and its room until a beat asked later tells; on a
    lost node it is forgotten, because the node's first beat will tell everything.
    """
    late = {op: running for op, running in draft.ops.items() if now_s >= running.deadline_s}
    changes: dict[tuple[Item, Place], Replica | None] = {}
    for running in late.values():
        command = running.command
        place = command.target if isinstance(command, Copy) else command.place
        if isinstance(command, Copy):
            why = ("TRC015", f"no answer from {place} within {now_s - running.began_s:.1f} s")
            set_back(draft, command.item, place, now_s, limits, why)
        replica = draft.replicas[command.item, place]
        changes[command.item, place] = replace(replica, since_s=now_s) if draft.alive(place.node) else None
    end_ops(draft, late)
    put(draft, changes)
