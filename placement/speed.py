"""How long a copy takes: learned from the copies that were made, hop by hop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from placement.place import Place
from placement.tiers import Tier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from placement.state import State

#: hops between the same tiers, of one node or of two, are of one kind
Kind = tuple[Tier, Tier, bool]
Hop = tuple[Place, Place] | Kind

#: each new copy weighs this much beside those before it
FRESH = 0.05
#: bytes per second and seconds of latency until a copy was made: what a consumer's SSD, main memory, a PCIe 4
#: bus and a gigabit network give to one reader (reference figures; the first copies replace them)
ASSUMED: Mapping[tuple[Tier, Tier, bool], tuple[float, float]] = {
    (Tier.SSD, Tier.RAM, True): (1e9, 1e-3),
    (Tier.SSD, Tier.VRAM, True): (0.9e9, 1.5e-3),
    (Tier.SSD, Tier.SSD, True): (0.5e9, 2e-3),
    (Tier.RAM, Tier.VRAM, True): (10e9, 5e-4),
    (Tier.RAM, Tier.SSD, True): (0.5e9, 2e-3),
    (Tier.RAM, Tier.RAM, True): (5e9, 5e-4),
}
ASSUMED_FAR = (0.11e9, 5e-3)
ASSUMED_ADDRESS = (10e6, 0.5)


@dataclass(frozen=True, slots=True)
class Speed:
    """What the copies over a hop told: sums over their MiB and seconds, older ones counted less."""

    weight: float = 0.0
    size: float = 0.0
    took_s: float = 0.0
    size2: float = 0.0
    product: float = 0.0

    def heard(self, nbytes: int, took_s: float) -> Speed:
        """Return the sums with one more copy."""
        size, keep = nbytes / 2**20, 1 - FRESH
        return Speed(
            self.weight * keep + 1,
            self.size * keep + size,
            self.took_s * keep + took_s,
            self.size2 * keep + size * size,
            self.product * keep + size * took_s,
        )

    def seconds(self, nbytes: int) -> float:
        """Return the seconds for `nbytes`: latency and bandwidth where sizes differ, else in proportion."""
        size = nbytes / 2**20
        spread = self.weight * self.size2 - self.size * self.size
        if spread > 1e-3 * self.size * self.size:
            slope = (self.weight * self.product - self.size * self.took_s) / spread
            latency_s = (self.took_s - slope * self.size) / self.weight
            if slope > 0 and latency_s >= 0:
                return latency_s + slope * size
        mean_s = self.took_s / self.weight
        return mean_s * size / (self.size / self.weight) if self.size else mean_s


def learned(
    speeds: Mapping[Hop, Speed], source: Place, target: Place, nbytes: int, took_s: float
) -> dict[Hop, Speed]:
    """Return the speeds after a copy from `source` to `target`: of this very hop, and of its kind."""
    hops: tuple[Hop, ...] = ((source, target), _kind(source, target))
    return {**speeds, **{hop: speeds.get(hop, Speed()).heard(nbytes, took_s) for hop in hops}}


def seconds(state: State, source: Place, target: Place, nbytes: int) -> float:
    """Return how long a copy of `nbytes` is likely to take, waiting for others not counted.

    By the copies over this very hop, else by those between the same tiers (of one node, or of two), else as
    assumed.
    """
    known = state.speeds.get((source, target)) or state.speeds.get(_kind(source, target))
    if known is not None:
        return known.seconds(nbytes)
    bandwidth, latency_s = _assumed(source, target)
    return latency_s + nbytes / bandwidth


def _kind(source: Place, target: Place) -> Kind:
    return source.tier, target.tier, source.node == target.node


def _assumed(source: Place, target: Place) -> tuple[float, float]:
    if source.tier is Tier.NETWORK:
        return ASSUMED_ADDRESS
    return ASSUMED.get(_kind(source, target), ASSUMED_FAR)
