"""The reference that knows the future: needed last goes first, weighed by what its return costs."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from placement.replay.trace import Ask
from placement.state import Item


class Clairvoyant:
    """Belady's rule with sizes: least `value(item)` per second until its next ask goes first.

    `uses` are the times of all asks of each item, in the order in which `asked` will tell of them.
    """

    choosy = True

    def __init__(self, uses: Mapping[Item, Iterable[float]], value: Callable[[Item], float]) -> None:
        self._next = {item: deque(times) for item, times in uses.items()}
        self._value = value

    def asked(self, item: Item, _t: float) -> None:
        self._next[item].popleft()

    def came(self, item: Item, nbytes: int, t: float) -> None:
        """Know it already."""

    def went(self, item: Item) -> None:
        """Know it already."""

    def worst(self, items: Iterable[Item], t: float) -> Item:
        def worth(item: Item) -> tuple[float, float]:
            times = self._next[item]
            away = max(times[0] - t, 1e-9) if times else math.inf
            value = self._value(item)
            return value / away, value

        return min(items, key=worth)


def uses_of(asks: Sequence[Ask], item_of: Mapping[str, Item]) -> dict[Item, list[float]]:
    """Return the times of the asks of each item, for Clairvoyant."""
    uses: dict[Item, list[float]] = {item: [] for item in item_of.values()}
    for ask in asks:
        uses[item_of[ask.role]].append(ask.t)
    return uses
