"""The brain's own numbers, where the file may say otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from placement.tiers import Tier


@dataclass(frozen=True, slots=True)
class Limits:
    """The brain's own numbers; all times in seconds."""

    #: an op ends as failed after this and the time that its bytes take at `slowest_nbytes_s`
    op_s: float = 30.0
    slowest_nbytes_s: int = 20 * 2**20
    #: the pause after a failure doubles from the first to the second
    backoff_s: float = 1.0
    backoff_max_s: float = 60.0
    #: a node without a beat for this long is lost
    beat_timeout_s: float = 10.0
    #: a granted item is not evicted before this, so that its caller gets there
    grace_s: float = 0.5
    #: a seat in use is not drained before its item has served so long
    hold_s: float = 2.0
    #: a want that waited this long, while all who have seats are in use, has one of them drained
    drain_after_s: float = 0.5
    #: an ordered move that is not done after this is rolled back
    move_s: float = 600.0
    #: copies in flight into one place
    copies_per_place: int = 4
    #: a place filled beyond `high` of its memory gives up items until it is under `low`
    high: Mapping[Tier, float] = field(
        default_factory=lambda: {Tier.VRAM: 0.92, Tier.RAM: 0.95, Tier.SSD: 0.97}
    )
    low: Mapping[Tier, float] = field(
        default_factory=lambda: {Tier.VRAM: 0.85, Tier.RAM: 0.90, Tier.SSD: 0.95}
    )
    #: for this long after it was over `high`, a place takes nothing unasked that brings it over `low`
    calm_s: float = 60.0
    #: an item that is warmed after another's use has this long, and is not warmed again before
    warm_s: float = 30.0
    #: a further copy of a role in another engine stays at least so long, and as long after its last ask
    further_s: float = 60.0
    #: what makes an item worth its place: exponents of how likely it is asked for soon, of how little overdue
    #: that is, and of the seconds that bringing it back takes
    frequency: float = 0.45
    recency: float = 0.10
    cost: float = 0.45
    #: bring up what habits tell, and keep in spare memory what is worth it
    foresees: bool = True
