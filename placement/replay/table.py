"""Scores as a table of plain text."""

from collections.abc import Sequence

from placement.replay.replay import CLAIRVOYANT, LRU
from placement.replay.tally import Score
from placement.tiers import Tier
from placement.units import format_bytes

COLUMNS = (
    "SLOTS", "POLICY", "VRAM", "RAM", "SSD", "P50", "P95", "P99", "EXPOSED",
    "BESIDE LRU", "TO CLAIRVOYANT", "MOVED", "EVICTED", "REFUSED",
)  # fmt: skip


def cells(scores: Sequence[Score]) -> list[tuple[str, ...]]:
    """Return a row of COLUMNS for each score; those with the same slots are compared.

    BESIDE LRU is the change of the exposed seconds, TO CLAIRVOYANT the part of the way from LRU's to its.
    """
    total_s = {(score.policy, score.slots): score.total_s for score in scores}
    return [
        (
            str(score.slots),
            score.policy,
            *(f"{score.ratio(tier):.1%}" for tier in (Tier.VRAM, Tier.RAM, Tier.SSD)),
            *(f"{1000 * seconds:.1f} ms" for seconds in (score.p50_s, score.p95_s, score.p99_s)),
            f"{score.total_s:.1f} s",
            *_beside(score, total_s.get((LRU, score.slots)), total_s.get((CLAIRVOYANT, score.slots))),
            format_bytes(score.nbytes),
            str(sum(score.evicted.values())),
            str(score.refused),
        )
        for score in scores
    ]


def _beside(score: Score, lru_s: float | None, clairvoyant_s: float | None) -> tuple[str, str]:
    beside = f"{score.total_s / lru_s - 1:+.1%}" if lru_s else ""
    if lru_s is None or clairvoyant_s is None or lru_s <= clairvoyant_s:
        return beside, ""
    return beside, f"{(lru_s - score.total_s) / (lru_s - clairvoyant_s):.0%}"


def text(scores: Sequence[Score]) -> str:
    """Return the table as aligned text."""
    rows = [COLUMNS, *cells(scores)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
