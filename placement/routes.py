"""Where the bytes of an item are best read from."""

from placement.state import Item, Place, State
from placement.tiers import Tier


def best_source(state: State, item: Item, target: Place) -> Place | None:
    """Return the cheapest ready replica to copy from, or None if no living node has one.

    Same node before another, RAM before SSD, then by name. A VRAM replica is never read: slot bytes are not
    the image. A shard's index is read before its log, from which it would have to be rebuilt.
    """
    sources = [
        place
        for place in state.spots.get(item, ())
        if place != target and place.tier is not Tier.VRAM and state.ready(item, place)
    ]
    return min(
        sources,
        key=lambda place: (place.node != target.node, -place.tier.height, place.device != "", place),
        default=None,
    )
