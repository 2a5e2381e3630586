"""Observed over remembered: what a node's beat changes in what we believe it holds."""

import math
from collections.abc import Mapping
from dataclasses import replace

from placement.change import end_ops, put, without
from placement.errors import UserError
from placement.heat import noticed
from placement.messages import Beat, Seen
from placement.pressure import press
from placement.state import Gauge, Item, Limits, Node, Place, Replica, State
from placement.warmth import follow

Changes = dict[tuple[Item, Place], Replica | None]


def observe(state: State, beat: Beat, now_s: float, limits: Limits) -> State:
    """Return the state after a beat; places that it does not list are left alone.

    An answer older than what we know changes nothing: a replica or an op that began after the beat was asked
    for is not judged by it, nor is a place by a beat older than its latest. A beat of a lost node that was
    asked for after the loss brings the node back. Unknown items are listed as strangers: they take room.
    """
    node = state.nodes.get(beat.node)
    if node is None:
        raise UserError("TRC021", f"a beat of {beat.node}, which never joined")
    foreign = sorted(str(place) for place in beat.places if place.node != beat.node)
    if foreign:
        raise UserError("TRC021", f"a beat of {beat.node} cannot tell about {', '.join(foreign)}")
    if not node.alive and beat.asked_s <= node.since_s:
        return state
    fresh = [place for place in beat.places if _is_fresh(state, place, node, beat.asked_s)]
    changes: Changes = {}
    for place in fresh:
        changes |= _look(state, place, beat.places[place], beat.asked_s, now_s)
    unknown = {
        place: {
            item: seen.nbytes for item, seen in sorted(beat.places[place].items()) if item not in state.items
        }
        for place in fresh
    }
    strangers = {**state.strangers, **unknown}
    since_s = node.since_s if node.alive else beat.asked_s
    heard = Node(True, since_s, max(beat.asked_s, node.last_beat_s))
    state = replace(
        state,
        nodes={**state.nodes, beat.node: heard},
        seen={**state.seen, **dict.fromkeys(fresh, beat.asked_s)},
        over=state.over | set(fresh),
        strangers={place: items for place, items in strangers.items() if items},
        gauges=_measure(state, beat, fresh),
    )
    return press(_take_in(state, changes, now_s, limits), fresh, now_s, limits)


def _measure(state: State, beat: Beat, fresh: list[Place]) -> Mapping[Place, tuple[Gauge, ...]]:
    """Return the gauges after a beat: a place that it lists without one is no longer measured."""
    if not beat.gauges and not any(place in state.gauges for place in fresh):
        return state.gauges
    told = {place: beat.gauges[place] for place in fresh if beat.gauges.get(place)}
    return {**without(state.gauges, *fresh), **told}


def _is_fresh(state: State, place: Place, node: Node, asked_s: float) -> bool:
    """Tell whether a beat may speak of a place: later than its latest beat, or than all we did there.

    A first beat that could not tell about what is being removed would open the place with a hole in the
    picture.
    """
    if place in state.seen:
        return asked_s > state.seen[place]
    return asked_s >= node.since_s and asked_s > state.settled.get(place, -math.inf)


def _look(state: State, place: Place, shown: Mapping[Item, Seen], asked_s: float, now_s: float) -> Changes:
    """Return what changes at one place; what is found counts as known since now, whenever it was seen."""
    changes: Changes = {}
    for item in state.shelves.get(place, {}):
        old = state.replicas[item, place]
        in_flight = old.phase if old.op in state.ops else ""
        judged = asked_s > old.since_s
        if item in shown:
            settles = judged and in_flight != "leaving" and old.phase != "ready"
            present = _present(old, shown[item], asked_s, serves=state.serves(item, place))
            changes[item, place] = (
                replace(present, phase="ready", since_s=now_s, op="") if settles else present
            )
        elif judged and in_flight != "loading":
            changes[item, place] = None
    if asked_s > state.settled.get(place, -math.inf):
        for item in shown:
            new = (item, place) not in state.replicas and item in state.items
            if new and (place in state.rooms or place == state.items[item].durable):
                serves = state.serves(item, place)
                found = Replica("ready", now_s, -math.inf if serves else now_s)
                changes[item, place] = _present(found, shown[item], asked_s, serves=serves)
    return changes


def _present(old: Replica, seen: Seen, asked_s: float, *, serves: bool) -> Replica:
    """Return the replica as seen; only where the item serves does being there count as being used."""
    shown = replace(old, leases=seen.leases, hits=seen.hits)
    used_s = asked_s if seen.leases else asked_s - seen.idle_s
    return replace(shown, used_s=max(old.used_s, used_s)) if serves else shown


def _take_in(state: State, changes: Changes, now_s: float, limits: Limits) -> State:
    """Return the state with the changes of a beat, and what follows: uses, missing files, ops that ended."""
    used: list[Item] = []
    told: list[tuple[float, Item, int]] = []
    uses, gone, settled = dict(state.uses), dict(state.gone), dict(state.settled)
    ended: list[str] = []
    arrived: list[tuple[Item, Place]] = []
    for (item, place), new in changes.items():
        old = state.replicas.get((item, place))
        if old is not None and (new is None or not new.op):
            ended.append(old.op)
        if new is None:
            settled[place] = now_s
            if place == state.items[item].durable:
                gone[item] = now_s
            continue
        if new.phase == "ready" and (old is None or old.phase == "loading"):
            arrived.append((item, place))
        # Arriving somewhere is no use: only a lease or a hit keeps an item from going idle.
        if state.serves(item, place) and (new.leases or new.hits > (old.hits if old else 0)):
            uses[item] = max(uses[item], new.used_s)
            told.append((new.used_s, item, new.hits))
            if old is not None and (new.hits > old.hits or not old.leases):
                used.append(item)
    backoff = without(state.backoff, *arrived) if arrived else state.backoff
    again = [item for item in used if item in state.unloads and state.unloads[item].done]
    unloads = without(state.unloads, *again) if again else state.unloads
    expected = without(state.expected, *used) if used else state.expected
    state = replace(
        state, uses=uses, gone=gone, settled=settled, backoff=backoff, unloads=unloads, expected=expected
    )
    for _, item, hits in sorted(told):
        state = noticed(state, item, hits)
    return follow(put(end_ops(state, ended), changes), used, now_s, limits)
