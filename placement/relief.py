"""What goes when memory runs short: the least valuable first, until the place is under its low mark."""

from collections.abc import Iterable, Iterator

from placement.messages import Command, Copy, Drop
from placement.plan import is_safe
from placement.pressure import crowded, is_measured, leaving, left, level
from placement.routes import best_source
from placement.score import ranked, worth
from placement.state import Item, Limits, Place, State
from placement.tiers import Tier


def relieve(state: State, items: Iterable[Item], now_s: float, limits: Limits) -> Iterator[Command]:
    """Drop the least valuable of each place that was over its high mark until it is under its low one.

    Surplus goes first (what does not rest there), then what rests there, each least worth for its bytes first
    (`placement/score.py`); never what is leased, pinned, wanted, durable, on its way or the only index of a
    shard, which is copied to a lower tier first. A budget that nobody measures is a promise to what rests
    there: it sheds surplus only, and only what was idle for `calm_s`, so that a lab whose homes fill its
    budget is at rest.
    """
    if not state.pressed:
        return
    touched = {place for item in items for place in state.spots.get(item, ())}
    for place in sorted(touched & state.pressed.keys()):
        yield from _relieve(state, place, set(state.queue), now_s, limits)


def _relieve(
    state: State, place: Place, wanted: set[Item], now_s: float, limits: Limits
) -> Iterator[Command]:
    low = limits.low.get(place.tier, 1.0)
    full = level(state, place)
    sinking = _sinking(state, place)
    going = leaving(state, place) + sum(state.items[item].nbytes for item in sinking)
    over = level(state, place, going).over(low)
    for item in _least_valuable(state, place, now_s, limits):
        if over <= 0:
            return
        busy = item in wanted or item in state.moves or item in sinking
        if busy or state.replicas[item, place].phase != "ready":
            continue
        surplus = state.rest(item, now_s) != place
        valued = worth(state, item, place, now_s, limits)
        why = f"{'not resting there' if surplus else 'resting there'}, {valued}"
        reason = f"{place} is {full}, down to {low:.0%}: {why}"
        drop = Drop("", item, place, reason)
        safe = is_safe(state, drop, now_s, limits)
        command = drop if safe else _sink(state, item, place, reason, now_s, limits)
        if command is not None:
            yield command
            over -= state.items[item].nbytes


def _least_valuable(state: State, place: Place, now_s: float, limits: Limits) -> list[Item]:
    measured = is_measured(state, place)
    return [
        item
        for rests, _, used_s, item in ranked(
            state, place, state.shelves.get(place, {}), now_s, limits, by_bytes=True
        )
        if measured or (not rests and now_s - used_s >= limits.calm_s)
    ]


def _below(state: State, place: Place) -> list[Place]:
    """Return the lower places of the same node that hold bytes of their own, highest first."""
    tiers = [tier for tier in (Tier.RAM, Tier.SSD) if tier.height < place.tier.height]
    return [below for tier in tiers if (below := Place(place.node, tier)) in state.rooms]


def _sinking(state: State, place: Place) -> set[Item]:
    """Return the shards at a place that are being copied to a lower tier."""
    below = _below(state, place)
    phases = {
        item: [state.replicas[item, lower].phase for lower in below if (item, lower) in state.replicas]
        for item in state.shelves.get(place, {})
        if state.items[item].kind == "shard" and state.replicas[item, place].phase == "ready"
    }
    return {item for item, found in phases.items() if "loading" in found and "ready" not in found}


def _sink(state: State, item: Item, place: Place, reason: str, now_s: float, limits: Limits) -> Copy | None:
    """Return the copy that lets the only index of a shard leave a place, or None if there is none to make."""
    spec, replica = state.items[item], state.replicas[item, place]
    held = replica.leases or (state.pinned(item) and place == state.home(item))
    if spec.kind != "shard" or place == spec.durable or held:
        return None
    for below in _below(state, place):
        source = best_source(state, item, below)
        if source is None or crowded(state, below, spec.nbytes, limits) or spec.nbytes > left(state, below):
            continue
        copy = Copy("", item, source, below, spec.nbytes, f"{reason}; it goes to {below} first")
        if is_safe(state, copy, now_s, limits):
            return copy
    return None
