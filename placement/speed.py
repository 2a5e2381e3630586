"""How long bytes take from place to place: an estimate, by the kind of hop."""

from placement.state import NETWORK, Place, State
from placement.tiers import Tier

#: Bytes a second where nobody has measured: a download, a link between machines, and on one machine a disk,
#: a copy in memory, an upload to a device. Careful values of ordinary hardware: a line of 200 Mbit/s, a
#: 1 Gbit/s network, a SATA SSD, one core's memory copy.
DOWNLOAD = 25_000_000
LINK = 110_000_000
DISK = 450_000_000
MEMORY = 2_000_000_000
#: what each copy costs beside its bytes: calls, checks, a place made ready
CALL_S = 0.01


def seconds(_state: State, source: Place, target: Place, nbytes: int) -> float:
    """Return how long a copy of `nbytes` from `source` to `target` is likely to take."""
    return CALL_S + nbytes / _pace(source, target)


def _pace(source: Place, target: Place) -> int:
    if source == NETWORK:
        return DOWNLOAD
    if source.node != target.node:
        return LINK
    return DISK if Tier.SSD in {source.tier, target.tier} else MEMORY
