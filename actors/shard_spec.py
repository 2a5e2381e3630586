"""What a shard is built from, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass

from actors.rag.remote import Remote
from placement.tiers import Tier


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """Where a shard's log and its index in each tier lie on its node, and where its documents come from."""

    name: str
    lab: str
    embedder: str
    source: str
    tier: Tier
    log_dir: str
    index_dirs: dict[Tier, str]
    #: the lab's own folder in RAM, shared by its shards: what `close` leaves nothing in
    ram_folder: str
    #: where a network shard answers; the folders above are not used then
    remote: Remote | None = None
    #: the actor of the engine whose VRAM it may lie in; "" if there is none
    engine: str = ""

    @property
    def item(self) -> str:
        return f"{self.name}#shard"

    def below(self, tier: Tier) -> tuple[Tier, str]:
        """Return tier and folder of the index of a shard in `tier`: below VRAM there is one on SSD."""
        if tier is Tier.RAM:
            return Tier.RAM, self.index_dirs[Tier.RAM]
        return Tier.SSD, self.index_dirs.get(Tier.VRAM) or self.index_dirs[Tier.SSD]


@dataclass(frozen=True, slots=True)
class Shelved:
    """What a shard reports: sizes in bytes, counts, and the tier that answers now, if one does.

    `problem` says why a network shard cannot be read, or why one in VRAM is not renewed; "" if all is well.
    `earlier` of the `searches` are from before it came to its tier.
    """

    pid: int
    rss: int
    tier: Tier | None
    nbytes: int
    points: int
    searches: int
    leases: int
    idle_s: float
    digest: str
    reachable: bool = True
    problem: str = ""
    earlier: int = 0


@dataclass(frozen=True, slots=True)
class Ingested:
    """What one ingestion did; `skipped` names each file that was left out and why."""

    documents: int
    chunks: int
    unchanged: int
    nbytes: int
    skipped: tuple[str, ...]
