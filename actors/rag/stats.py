"""What an open shard tells of itself."""

from __future__ import annotations

from dataclasses import dataclass

from placement.tiers import Tier


@dataclass(frozen=True, slots=True)
class Stats:
    """A shard now; `nbytes` is the index's room in its tier."""

    documents: int
    points: int
    nbytes: int
    seq: int
    digest: str
    tier: Tier
    index_dir: str
    #: Why the index was built anew at open; "" if it was loaded.
    rebuilt: str
