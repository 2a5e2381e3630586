"""What a person orders: a new home or a pin. An order that can never be met is refused with its numbers."""

from collections.abc import Iterable
from dataclasses import replace

from placement.change import without
from placement.errors import UserError, WorldError
from placement.messages import MoveOrdered, PinSet
from placement.state import Item, Limits, Move, Place, State
from placement.tiers import Tier
from placement.units import format_bytes


def move(state: State, order: MoveOrdered, now_s: float, limits: Limits) -> State:
    """Return the state in which `order.to` is the item's home and its other replicas are to leave."""
    item, to = order.item, order.to
    _check_reachable(state, item, to)
    _check_fits(state, item, to, residents=to.tier is not Tier.VRAM)
    held = state.spots.get(item, ()) if order.clears else ()
    others = frozenset(place for place in held if place not in (to, state.items[item].durable))
    pending = state.moves.get(item)
    before = pending.before if pending else state.homes.get(item)
    ordered = Move(to, before, order.cause, now_s + limits.move_s)
    return replace(
        state,
        homes={**state.homes, item: to},
        moves={**state.moves, item: ordered},
        leaves={**state.leaves, item: others},
        uses={**state.uses, item: now_s},
        backoff=without(state.backoff, (item, to)),
    )


def pin(state: State, order: PinSet) -> State:
    """Return the state in which the item is pinned at its home, or no longer is."""
    if order.pinned and not state.pinned(order.item):
        _check_fits(state, order.item, state.home(order.item), residents=False)
    return replace(state, pins=state.pins | {order.item} if order.pinned else state.pins - {order.item})


def roll_back(state: State, item: Item) -> State:
    """Return the state in which a move that failed is undone: the home before it is the home again."""
    before = state.moves[item].before
    return replace(
        state,
        homes=without(state.homes, item) if before is None else {**state.homes, item: before},
        moves=without(state.moves, item),
        leaves=without(state.leaves, item),
    )


def _check_reachable(state: State, item: Item, to: Place) -> None:
    spec = state.items[item]
    if to.tier is Tier.NETWORK:
        raise UserError("TRC023", f"{item} cannot move to {to}: the network is no place of this lab")
    if to.tier is Tier.VRAM and to != spec.serves_at:
        only = f"its engine is at {spec.serves_at}" if spec.serves_at else "no engine serves it"
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

    Durable copies and pinned items must stay; with `residents`, so must everything that lives there.
    """
    room = state.rooms.get(place)
    if room is None:
        return
    spec = state.items[item]
    others = [
        other
        for other in state.items
        if other != item
        and (
            place == state.items[other].durable
            or (place == state.home(other) and (residents or state.pinned(other)))
        )
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
    if place.tier is Tier.VRAM and len(seated) >= seats:
        raise WorldError(
            "TRC022",
            f"{item} does not fit at {place}: {len(seated)} of {seats} seats of base {spec.base} stay with "
            f"{_names(state, seated)}",
            "unpin one of them or give the base more slots",
        )


def _names(state: State, items: Iterable[Item]) -> str:
    names = [state.items[item].name for item in items]
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return shown or "nobody"
