"""Who belongs to the lab: items registered, and removed."""

from dataclasses import replace

from placement.change import follow_names, put, recount, without
from placement.errors import UserError, WorldError
from placement.messages import Registered
from placement.place import listed
from placement.state import NETWORK, Item, Limits, Place, Replica, State
from placement.tiers import Tier
from placement.warmth import Warm, warm


def register(draft: State, event: Registered, now_s: float, limits: Limits) -> None:
    """Take an item in as its spec says.

    Raises UserError TRC024 for a spec that contradicts itself, WorldError TRC025 for an item that is still
    being removed.
    """
    spec, item = event.spec, event.spec.item
    _check_spec(event)
    if item in draft.retired:
        raise WorldError(
            "TRC025", f"{item} is still being removed", "try again when it is gone from `tierce ps`"
        )
    old = draft.items.get(item)
    if old is not None and old.home != spec.home:
        draft.homes, draft.moves = without(draft.homes, item), without(draft.moves, item)
    if old is None or old.pinned != spec.pinned:
        draft.pins = draft.pins | {item} if spec.pinned else draft.pins - {item}
    follow_names(draft, item, spec.after)
    draft.own("items")[item] = spec
    draft.own("versions")[spec.name] = item
    draft.own("uses").setdefault(item, now_s)
    draft.changed[item] = None
    more_engines = old is not None and old != spec and replace(old, serves_at=spec.serves_at) == spec
    if not more_engines:  # which mend nothing elsewhere
        draft.backoff = {key: setback for key, setback in draft.backoff.items() if key[0] != item}
    draft.strangers = {
        place: left for place, others in draft.strangers.items() if (left := without(others, item))
    }
    recount(draft, item)
    draft.over |= set(draft.spots.get(item, ())) | set(event.at)
    held = {
        (item, place): Replica("ready", now_s, now_s)
        for place in event.at
        if (item, place) not in draft.replicas
        and (place == spec.durable or (draft.alive(place.node) and place in draft.rooms))
    }
    put(draft, held)
    if old is None and spec.at_start:
        warm(draft, item, Warm("at start", now_s, now_s + limits.move_s), foretold=False)


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
    elif any(place.tier is Tier.VRAM and place not in spec.serves_at for place in places):
        wrong = f"in VRAM it can be at {listed(spec.serves_at) or 'no place'}"
    elif (spec.durable == NETWORK) != (spec.landing is not None and spec.landing.tier is Tier.SSD):
        wrong = f"durable at {spec.durable}, it lands at {spec.landing or 'no place'}"
    elif any(place.tier is Tier.NETWORK and place != spec.durable for place in (spec.home, *event.at)):
        wrong = f"it has no address, its durable copy is at {spec.durable}"
    elif spec.nbytes < 0:
        wrong = f"its size is {spec.nbytes} bytes"
    if wrong:
        raise UserError("TRC024", f"cannot register {spec.item}: {wrong}")


def retire(draft: State, item: Item) -> None:
    """Let an item leave the lab; only its replicas are still there."""
    draft.retired |= {item}
    draft.pins -= {item}
    draft.moves = without(draft.moves, item)
    draft.leaves = without(draft.leaves, item)
    draft.warms = without(draft.warms, item)
    draft.unloads = without(draft.unloads, item)
    draft.expected = without(draft.expected, item)
    draft.patience = without(draft.patience, item)
    draft.lowered = without(draft.lowered, item)
    draft.changed[item] = None


def remains(state: State, item: Item) -> set[Place]:
    """Return where a removed item stays, for it is not ours to drop: a shard's log, an adapter's address."""
    spec = state.items[item]
    return {spec.durable} if spec.kind == "shard" or spec.durable == NETWORK else set()
