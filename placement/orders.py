"""What a person orders: a new home, a pin, warmth or rest.

An order that can never be met is refused with its numbers.
"""

from collections.abc import Iterable
from dataclasses import replace

from placement.change import put, use, without
from placement.errors import UserError, WorldError
from placement.messages import MoveOrdered, PinSet, UnloadOrdered, WarmCancelled, WarmOrdered
from placement.place import listed
from placement.state import NETWORK, Item, Limits, Move, Place, Spec, State
from placement.tiers import Tier
from placement.units import format_bytes
from placement.warmth import Unload, Warm, cool, unload, warm

Order = MoveOrdered | PinSet | WarmOrdered | WarmCancelled | UnloadOrdered


def obey(draft: State, order: Order, now_s: float, limits: Limits) -> None:
    """Have an order for a known item stand; raise TRC02x if it can never be met."""
    match order:
        case MoveOrdered():
            move(draft, order, now_s, limits)
        case PinSet():
            pin(draft, order)
        case WarmOrdered(item, cause, within_s):
            warm(draft, item, Warm(cause, now_s, now_s + within_s))
        case WarmCancelled(item):
            cool(draft, item)
        case UnloadOrdered(item, cause):
            unload(draft, item, Unload(cause, now_s + limits.move_s))


def move(draft: State, order: MoveOrdered, now_s: float, limits: Limits) -> None:
    """Make `order.to` the item's home; its other replicas are to leave.

    An adapter that goes to the RAM or SSD of another node gets its durable copy there first. Who sends an
    item below RAM does not expect it to be asked for: until it is, nothing brings it near.
    """
    item = order.item
    spec = draft.items[item]
    to = NETWORK if order.to.tier is Tier.NETWORK else order.to
    landing = _landing(spec, to)
    _check_reachable(draft, item, to)
    _check_fits(draft, item, to, residents=to.tier is not Tier.VRAM)
    if landing is not None and landing != to:
        _check_reachable(draft, item, landing)
        _check_fits(draft, item, landing, residents=True)
    held = draft.spots.get(item, ()) if order.clears else ()
    others = frozenset(place for place in held if place not in (to, landing, spec.durable))
    pending = draft.moves.get(item)
    before = pending.before if pending else draft.homes.get(item)
    ordered = Move(to, before, order.cause, now_s + limits.move_s, landing)
    draft.homes = {**draft.homes, item: to}
    draft.moves = {**draft.moves, item: ordered}
    draft.leaves = {**draft.leaves, item: others}
    draft.unloads = without(draft.unloads, item)
    draft.lowered = without(draft.lowered, item)
    if to.tier.height < Tier.RAM.height:
        draft.lowered = {**draft.lowered, item: now_s}
    draft.backoff = without(draft.backoff, (item, to), *([(item, landing)] if landing is not None else []))
    use(draft, item, now_s)


def _landing(spec: Spec, to: Place) -> Place | None:
    """Return the SSD place that has to hold a moved adapter before another node is its home, or None."""
    anchor = spec.landing or spec.durable
    if spec.kind == "shard" or to.tier not in {Tier.RAM, Tier.SSD} or to.node == anchor.node:
        return None
    return Place(to.node, Tier.SSD)


def is_done(state: State, item: Item) -> bool:
    """Tell whether a moved item is ready where the order wants it, and where it has to land first."""
    ordered = state.moves[item]
    return all(state.ready(item, place) for place in (ordered.to, ordered.landing) if place is not None)


def arrive(draft: State, item: Item) -> None:
    """End a move that is done.

    After one to another node the copy there is the durable one, the item unloads on its new node, and the
    old node's file is to leave.
    """
    landing, spec = draft.moves[item].landing, draft.items[item]
    draft.moves = without(draft.moves, item)
    if landing is None:
        return
    old = spec.landing or spec.durable
    to = spec.unload_to
    if to is not None and to.node == old.node and to.tier in {Tier.RAM, Tier.SSD}:
        to = Place(landing.node, to.tier)
    if spec.durable == NETWORK:
        spec = replace(spec, landing=landing, unload_to=to)
    else:
        spec = replace(spec, durable=landing, unload_to=to)
    left = draft.replicas.get((item, old))
    unknown = left is not None and not draft.alive(old.node) and left.op not in draft.ops
    leaves = draft.leaves.get(item, frozenset()) | {old}
    draft.own("items")[item] = spec
    draft.leaves = {**draft.leaves, item: leaves}
    put(draft, {(item, old): None} if unknown else {})


def pin(draft: State, order: PinSet) -> None:
    """Pin the item at its home, or no longer do."""
    if order.pinned and not draft.pinned(order.item):
        _check_fits(draft, order.item, draft.home(order.item), residents=False)
    draft.pins = draft.pins | {order.item} if order.pinned else draft.pins - {order.item}


def roll_back(draft: State, item: Item) -> None:
    """Undo a move that failed: the home before it is the home again."""
    before = draft.moves[item].before
    draft.homes = without(draft.homes, item) if before is None else {**draft.homes, item: before}
    draft.moves = without(draft.moves, item)
    draft.leaves = without(draft.leaves, item)
    draft.lowered = without(draft.lowered, item)
    draft.changed[item] = None


def _check_reachable(state: State, item: Item, to: Place) -> None:
    spec = state.items[item]
    if to == NETWORK:
        if spec.durable == NETWORK:
            return
        raise UserError(
            "TRC023",
            f"{item} cannot move to {to}: it has no address, its file is at {spec.durable}",
            "give the role a hub id or a URL as lora_path",
        )
    if to.tier is Tier.VRAM and to not in spec.serves_at:
        only = f"its engine is at {listed(spec.serves_at)}" if spec.serves_at else "no engine serves it"
        raise UserError("TRC023", f"{item} cannot move to {to}: {only}")
    if spec.kind == "shard" and to.node != spec.durable.node:
        raise UserError(
            "TRC023", f"{item} cannot move to {to}: its log is on {spec.durable.node}, and it stays with it"
        )
    if to not in state.rooms:
        places = ", ".join(str(place) for place in sorted(state.rooms)) or "none"
        raise UserError("TRC021", f"{item} cannot move to {to}: no such place", f"places: {places}")
    if not state.alive(to.node):
        raise WorldError(
            "TRC013", f"{item} cannot move to {to}: {to.node} is lost ({state.nodes[to.node].why})"
        )


def _check_fits(state: State, item: Item, place: Place, *, residents: bool) -> None:
    """Raise WorldError TRC022 if the place can never hold the item besides what must stay there.

    Durable copies (and those of moves that go on), pinned items and the shards that live there must stay;
    with `residents`, so must everything that lives there.
    """
    room = state.rooms.get(place)
    if room is None:
        return
    spec = state.items[item]
    others = [
        other
        for other, known in state.items.items()
        if (place in (known.durable, known.home) or other in state.homes or other in state.moves)
        and other != item
        and _must_stay(state, other, place, residents=residents)
    ]
    taken = sum(state.items[other].nbytes for other in others)
    if spec.nbytes + taken > room.capacity:
        raise WorldError(
            "TRC022",
            f"{item} does not fit at {place}: it needs {format_bytes(spec.nbytes)}, and "
            f"{format_bytes(taken)} of {format_bytes(room.capacity)} stay with {_names(state, others)}",
            "move or unpin one of them first",
        )
    seats = room.seats.get(spec.base, 0)
    seated = [other for other in others if state.items[other].base == spec.base]
    if state.takes_seat(item, place) and len(seated) >= seats:
        raise WorldError(
            "TRC022",
            f"{item} does not fit at {place}: {len(seated)} of {seats} seats of base {spec.base} stay with "
            f"{_names(state, seated)}",
            "unpin one of them or give the base more slots",
        )


def _must_stay(state: State, item: Item, place: Place, *, residents: bool) -> bool:
    spec, ordered = state.items[item], state.moves.get(item)
    if place == spec.durable or (ordered is not None and place == ordered.landing):
        return True
    stays = residents or state.pinned(item) or spec.kind == "shard"
    return place == state.home(item) and stays and item not in state.retired


def _names(state: State, items: Iterable[Item]) -> str:
    names = [state.items[item].name for item in items]
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return shown or "nobody"
