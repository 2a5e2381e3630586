"""Where the bytes of an item are best read from, and over which places they travel."""

from placement.state import NETWORK, Item, Place, Setback, State
from placement.tiers import Tier


def best_source(state: State, item: Item, target: Place) -> Place | None:
    """Return the cheapest ready replica to copy from, or None if no living node has one.

    Same node before another, RAM before SSD, then by name; an address last, and only for the place where its
    bytes land. A VRAM replica is never read: slot bytes are not the image. A shard's index is read before
    its log, from which it would have to be rebuilt.
    """
    sources = [
        place
        for place in state.spots.get(item, ())
        if place != target
        and place.tier is not Tier.VRAM
        and state.ready(item, place)
        and (place != NETWORK or target == state.landing(item))
    ]
    return min(
        sources,
        key=lambda place: (place.node != target.node, -place.tier.height, place.device != "", place),
        default=None,
    )


def next_leg(state: State, item: Item, place: Place) -> tuple[Place, Place] | None:
    """Return source and target of the next copy on the way to `place`; None if none can be made now.

    From an address the bytes go to the landing place first, and from there on.
    """
    source = best_source(state, item, place)
    if source is not None:
        return source, place
    landing = state.landing(item)
    if landing is None or not state.ready(item, NETWORK) or (item, landing) in state.replicas:
        return None
    return NETWORK, landing


def on_the_way(state: State, item: Item, place: Place) -> list[Place]:
    """Return the places at which a try for `place` can fail: it, and the landing if the bytes come by it."""
    landing = state.landing(item)
    return [place] if landing is None or landing == place else [place, landing]


def setback(state: State, item: Item, place: Place) -> Setback | None:
    """Return what went wrong last on the way to a place, or None."""
    tries = (state.backoff.get((item, stage)) for stage in on_the_way(state, item, place))
    return next((each for each in tries if each is not None), None)
