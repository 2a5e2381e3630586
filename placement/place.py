"""Names of what lies somewhere, and of where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, NewType

from placement.tiers import Tier

if TYPE_CHECKING:
    from collections.abc import Iterable

#: "philosopher@3fa9c1d2b0aa" (an adapter version) or "plato#shard" (a shard)
Item = NewType("Item", str)
Kind = Literal["adapter", "shard"]
Phase = Literal["loading", "ready", "leaving"]


class Place(NamedTuple):
    """A tier of a node; a VRAM place names its device, a shard's log is the place with device "log".

    A tuple, because nothing is done oftener with a place than to look something up by it.
    """

    node: str
    tier: Tier
    device: str = ""

    def __str__(self) -> str:
        """Return `desk:RAM`, `desk:VRAM(cpu)`, `network`."""
        if self.tier is Tier.NETWORK:
            return str(self.tier)
        return f"{self.node}:{self.tier}({self.device})" if self.device else f"{self.node}:{self.tier}"


def listed(places: Iterable[Place]) -> str:
    """Return places for a sentence: `desk:VRAM(cpu), attic:VRAM(cpu)`."""
    return ", ".join(map(str, places))


#: where everything rests that lies at an address: always alive, without a budget, never beating
NETWORK = Place("network", Tier.NETWORK)
