"""What a replay counts, and the score that comes of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from placement.tiers import Tier


@dataclass(frozen=True, slots=True)
class Score:
    """How a policy did. Seconds are exposed ones: from an ask until its adapter is ready; 0 of a warm ask.

    `found` are the asks by the tier where they found the item, `moved` bytes by hop, `evicted` drops by tier;
    `refused` asks gave up at their deadline.
    """

    policy: str
    slots: int
    asks: int
    found: Mapping[Tier, int]
    total_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    moved: Mapping[str, int]
    evicted: Mapping[Tier, int]
    refused: int

    def ratio(self, tier: Tier) -> float:
        """Return the share of asks that found their item at a tier and no higher."""
        return self.found[tier] / self.asks if self.asks else 0.0

    @property
    def nbytes(self) -> int:
        """Return the bytes that went over all hops."""
        return sum(self.moved.values())


@dataclass(slots=True)
class Tally:
    """What is counted while asks are played."""

    found: dict[Tier, int] = field(default_factory=lambda: dict.fromkeys((Tier.VRAM, Tier.RAM, Tier.SSD), 0))
    evicted: dict[Tier, int] = field(default_factory=lambda: dict.fromkeys((Tier.VRAM, Tier.RAM), 0))
    #: of asks that were not warm, in the order of their ends
    waits: list[float] = field(default_factory=list)
    refused: int = 0

    def score(self, policy: str, slots: int, moved: Mapping[str, int]) -> Score:
        asks, waits = sum(self.found.values()), sorted(self.waits)
        p50_s, p95_s, p99_s = (_quantile(waits, asks, share) for share in (0.50, 0.95, 0.99))
        return Score(
            policy=policy,
            slots=slots,
            asks=asks,
            found=self.found,
            total_s=math.fsum(waits),
            p50_s=p50_s,
            p95_s=p95_s,
            p99_s=p99_s,
            moved=moved,
            evicted=self.evicted,
            refused=self.refused,
        )


def _quantile(waits: list[float], asks: int, share: float) -> float:
    """Return what `share` of `asks` did not exceed; who is not among the sorted `waits` had 0 s."""
    rank = math.ceil(share * asks) - 1 - (asks - len(waits))
    return waits[rank] if rank >= 0 else 0.0
