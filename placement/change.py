"""The small steps of which `apply`, `beat` and `orders` are made: each takes a state and returns the next."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from placement.messages import Copy
from placement.state import NETWORK, Item, Limits, Node, Place, Replica, Setback, State

K = TypeVar("K")
V = TypeVar("V")


def without(mapping: Mapping[K, V], *keys: K) -> dict[K, V]:
    """Return a copy of `mapping` that lacks `keys`, which need not be in it."""
    left = dict(mapping)
    for key in keys:
        left.pop(key, None)
    return left


def put(state: State, changes: Mapping[tuple[Item, Place], Replica | None]) -> State:
    """Return the state with these replicas set (or taken out, for None) and both indexes in step.

    A refusal to drop what was there ends with it: nothing forbids to bring it back.
    """
    replicas, spots, shelves = dict(state.replicas), dict(state.spots), dict(state.shelves)
    left: list[tuple[Item, Place]] = []
    for (item, place), replica in changes.items():
        had = (item, place) in replicas
        if replica is not None:
            replicas[item, place] = replica
            if not had:
                spots[item] = tuple(sorted((*spots.get(item, ()), place)))
                shelves[place] = {**shelves.get(place, {}), item: bytes_at(state, item, place)}
        elif had:
            if replicas.pop((item, place)).phase != "loading":
                left.append((item, place))
            spots[item] = tuple(spot for spot in spots[item] if spot != place)
            shelves[place] = without(shelves[place], item)
    gone = state.gone
    for item in state.gone:
        durable = replicas.get((item, state.items[item].durable))
        if durable is not None and durable.phase == "ready":
            gone = without(gone, item)
    backoff = without(state.backoff, *left) if left else state.backoff
    return replace(state, replicas=replicas, spots=spots, shelves=shelves, gone=gone, backoff=backoff)


def bytes_at(state: State, item: Item, place: Place) -> int:
    """Return the bytes that a replica takes of its place: a shard's log and an address take none."""
    spec = state.items[item]
    logged = spec.kind == "shard" and place == spec.durable
    return 0 if logged or place == NETWORK else spec.nbytes


def end_ops(state: State, ops: Iterable[str]) -> State:
    """Return the state without these ops; a late answer to one is then unknown and ignored."""
    return replace(state, ops=without(state.ops, *ops))


def set_back(
    state: State, item: Item, place: Place, now_s: float, limits: Limits, why: tuple[str, str]
) -> State:
    """Return the state in which nobody tries this item and place again before a pause, doubled each time."""
    failures = 1 + (old.failures if (old := state.backoff.get((item, place))) else 0)
    pause_s = min(limits.backoff_s * 2 ** min(failures - 1, 32), limits.backoff_max_s)
    setback = Setback(failures, now_s + pause_s, *why)
    return replace(state, backoff={**state.backoff, (item, place): setback})


def fail_for_good(state: State, item: Item, place: Place, why: tuple[str, str]) -> State:
    """Return the state in which this item and place is not tried until registered or moved anew."""
    failures = 1 + (old.failures if (old := state.backoff.get((item, place))) else 0)
    return replace(state, backoff={**state.backoff, (item, place): Setback(failures, math.inf, *why)})


def lose_node(state: State, node: str, reason: str, now_s: float) -> State:
    """Return the state in which the node is lost.

    What it held in RAM and VRAM is forgotten; durable copies are kept and unreachable. Replicas with an op in
    flight stay until it ends, because their bytes may still arrive if only the connection was lost.
    """
    lost = {
        (item, place): None
        for place in sorted(place for place in state.shelves if place.node == node)
        for item in state.shelves[place]
        if state.replicas[item, place].op not in state.ops and place != state.items[item].durable
    }
    old = state.nodes[node]
    return put(
        replace(
            state,
            nodes={**state.nodes, node: Node(False, now_s, old.last_beat_s, reason)},
            seen={place: at_s for place, at_s in state.seen.items() if place.node != node},
            gauges={place: gauges for place, gauges in state.gauges.items() if place.node != node},
            pressed={place: at_s for place, at_s in state.pressed.items() if place.node != node},
        ),
        lost,
    )


def forget(state: State, item: Item) -> State:
    """Return the state without any trace of a removed item."""
    state = put(state, {(item, place): None for place in state.spots.get(item, ())})
    ops = [op for op, running in state.ops.items() if running.command.item == item]
    return replace(
        state,
        items=without(state.items, item),
        retired=state.retired - {item},
        homes=without(state.homes, item),
        pins=state.pins - {item},
        spots=without(state.spots, item),
        gone=without(state.gone, item),
        moves=without(state.moves, item),
        leaves=without(state.leaves, item),
        warms=without(state.warms, item),
        unloads=without(state.unloads, item),
        uses=without(state.uses, item),
        holds=without(state.holds, item),
        expected=without(state.expected, item),
        heat=without(state.heat, item),
        ops=without(state.ops, *ops),
        backoff={key: setback for key, setback in state.backoff.items() if key[0] != item},
    )


def expire_ops(state: State, now_s: float, limits: Limits) -> State:
    """Return the state without the ops that are past their deadline.

    The outcome is unknown, so the replica keeps its phase and its room until a beat asked later tells; on a
    lost node it is forgotten, because the node's first beat will tell everything.
    """
    late = {op: running for op, running in state.ops.items() if now_s >= running.deadline_s}
    changes: dict[tuple[Item, Place], Replica | None] = {}
    for running in late.values():
        command = running.command
        place = command.target if isinstance(command, Copy) else command.place
        if isinstance(command, Copy):
            why = ("TRC015", f"no answer from {place} within {now_s - running.began_s:.1f} s")
            state = set_back(state, command.item, place, now_s, limits, why)
        replica = state.replicas[command.item, place]
        changes[command.item, place] = replace(replica, since_s=now_s) if state.alive(place.node) else None
    return put(end_ops(state, late), changes) if late else state
