"""Many measures of one thing as a median with its spread, and the interleaving that makes ratios fair."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

#: A ratio that rests on fewer rounds says little.
REPEATS = 5


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of `count` measures, and the least and the greatest of them."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        kept = list(values)
        return cls(statistics.median(kept), min(kept), max(kept), len(kept))


def interleaved(cases: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Measure every case once for nothing, then in each of `repeats` rounds: A B C, B C A, C A B.

    What drifts in the machine meets all cases alike; `over` compares within each round.
    """
    order = list(cases)
    measured: dict[str, list[float]] = {name: [] for name in order}
    for case in cases.values():
        case()
    for turn in range(repeats):
        at = turn % len(order)
        for name in order[at:] + order[:at]:
            measured[name].append(cases[name]())
    return measured


def over(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Return the ratios of what was measured in the same rounds."""
    return Spread.of(a / b for a, b in zip(above, below, strict=True))


def seconds(act: Callable[[], object]) -> float:
    """Return how long `act` takes, on the wall's clock."""
    began_s = time.perf_counter()
    act()
    return time.perf_counter() - began_s


def timed(act: Callable[[], object]) -> Callable[[], float]:
    """Return a case that measures how long `act` takes."""
    return lambda: seconds(act)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of all lie: the nearest one that was measured."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
