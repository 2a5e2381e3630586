"""Who belongs to the lab: items registered, and removed."""

from dataclasses import replace

from placement.change import bytes_at, put, without
from placement.errors import UserError, WorldError
from placement.messages import Registered
from placement.state import NETWORK, Item, Limits, Place, Replica, State
from placement.tiers import Tier
from placement.warmth import Warm, warm


def register(state: State, event: Registered, now_s: float, limits: Limits) -> State:
    """Return the state in which an item belongs to the lab as its spec says.

    Raises UserError TRC024 for a spec that contradicts itself, WorldError TRC025 for an item that is still
    being removed.
    """
    spec, item = event.spec, event.spec.item
    _check_spec(event)
    if item in state.retired:
        raise WorldError(
            "TRC025", f"{item} is still being removed", "try again when it is gone from `tierce ps`"
        )
    old = state.items.get(item)
    if old is not None and old.home != spec.home:
        state = replace(state, homes=without(state.homes, item), moves=without(state.moves, item))
    if old is None or old.pinned != spec.pinned:
        state = replace(state, pins=state.pins | {item} if spec.pinned else state.pins - {item})
    state = replace(
        state,
        items={**state.items, item: spec},
        uses={item: now_s, **state.uses},
        backoff={key: setback for key, setback in state.backoff.items() if key[0] != item},
        strangers={place: without(others, item) for place, others in state.strangers.items()},
    )
    for place in state.spots.get(item, ()):
        shelf = {**state.shelves[place], item: bytes_at(state, item, place)}
        state = replace(state, shelves={**state.shelves, place: shelf})
    held = {
        (item, place): Replica("ready", now_s, now_s)
        for place in event.at
        if (item, place) not in state.replicas
        and (place == spec.durable or (state.alive(place.node) and place in state.rooms))
    }
    state = put(replace(state, over=state.over | set(state.spots.get(item, ())) | set(event.at)), held)
    if old is not None or not spec.at_start:
        return state
    return warm(state, item, Warm("at start", now_s, now_s + limits.move_s), foretold=False)


def _check_spec(event: Registered) -> None:
    spec = event.spec
    places = [place for place in (spec.home, spec.unload_to, *event.at) if place is not None]
    wrong = ""
    if spec.durable == NETWORK and spec.kind == "shard":
        wrong = "a shard at an address is no item: its bytes are not the lab's"
    elif spec.durable not in event.at or spec.durable.tier not in {Tier.SSD, Tier.NETWORK}:
        wrong = f"it has no durable copy at {spec.durable}"
    elif spec.kind == "shard" and spec.durable in (spec.home, spec.unload_to):
        wrong = f"a shard's log {spec.durable} is not a place to serve from"
    elif any(place.tier is Tier.VRAM and place != spec.serves_at for place in places):
        wrong = f"its only VRAM place is {spec.serves_at or 'none'}"
    elif (spec.durable == NETWORK) != (spec.landing is not None and spec.landing.tier is Tier.SSD):
        wrong = f"durable at {spec.durable}, it lands at {spec.landing or 'no place'}"
    elif any(place.tier is Tier.NETWORK and place != spec.durable for place in (spec.home, *event.at)):
        wrong = f"it has no address, its durable copy is at {spec.durable}"
    elif spec.nbytes < 0:
        wrong = f"its size is {spec.nbytes} bytes"
    if wrong:
        raise UserError("TRC024", f"cannot register {spec.item}: {wrong}")


def retire(state: State, item: Item) -> State:
    """Return the state in which an item has left the lab, and only its replicas are still there."""
    return replace(
        state,
        retired=state.retired | {item},
        pins=state.pins - {item},
        moves=without(state.moves, item),
        leaves=without(state.leaves, item),
        warms=without(state.warms, item),
        unloads=without(state.unloads, item),
    )


def remains(state: State, item: Item) -> set[Place]:
    """Return where a removed item stays, for it is not ours to drop: a shard's log, an adapter's address."""
    spec = state.items[item]
    return {spec.durable} if spec.kind == "shard" or spec.durable == NETWORK else set()
