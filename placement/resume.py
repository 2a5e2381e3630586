"""What a new coordinator goes on with: the homes and pins that were ordered before it."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from placement.messages import MoveOrdered
from placement.state import NETWORK, Item, Place, Spec, State
from placement.tiers import Tier


def as_ordered(
    spec: Spec, homes: Mapping[Item, Place], pins: Mapping[Item, bool], here: Collection[str]
) -> Spec:
    """Return a Spec with the home and pin that were ordered since the file.

    An ordered seat is the one in its engine, wherever that is now, and of several the ordered one. A home on
    a node that is not `here` waits until it is: the file's holds meanwhile.
    """
    home = homes.get(spec.item, spec.home)
    if home.tier is Tier.VRAM and home not in spec.serves_at:
        home = spec.serves_at[0] if spec.serves_at else spec.home
    elif home.node not in here and home.tier is not Tier.NETWORK:
        home = spec.home
    return replace(spec, home=home, pinned=pins.get(spec.item, spec.pinned))


def unmet(state: State, homes: Mapping[Item, Place]) -> list[MoveOrdered]:
    """Return the orders to be given again: of each item that is not ready at the home that it was sent to.

    By an order, which `homes` has, or by a file that puts it to another node than its durable copy's.
    """
    orders = []
    for item, spec in state.items.items():
        home = state.home(item)
        moved = home.tier in {Tier.RAM, Tier.SSD} and home.node != (spec.landing or spec.durable).node
        sent = moved or homes.get(item) == home
        if sent and item not in state.retired and not state.ready(item, home):
            orders.append(MoveOrdered(item, home, "an order before the restart"))
    return orders


def resting_on(spec: Spec, place: Place) -> Spec:
    """Return the spec of an item whose file is at another SSD place than it says: it unloads there too."""
    old, to = spec.landing or spec.durable, spec.unload_to
    if place == old:
        return spec
    if to is not None and to.node == old.node and to.tier in {Tier.RAM, Tier.SSD}:
        to = Place(place.node, to.tier)
    if spec.durable == NETWORK:
        return replace(spec, landing=place, unload_to=to)
    return replace(spec, durable=place, unload_to=to)
