"""The well-known caches: each is an order of who goes first. A tier has an order of its own."""

from collections.abc import Iterable
from typing import Protocol

from placement.state import Item


class Order(Protocol):
    """Who goes first from one tier. It hears of every ask, and of what comes to and leaves its tier."""

    #: whether a newcomer that is worth less than those there stays out
    choosy: bool

    def asked(self, item: Item, t: float) -> None: ...

    def came(self, item: Item, nbytes: int, t: float) -> None: ...

    def went(self, item: Item) -> None: ...

    def worst(self, items: Iterable[Item], t: float) -> Item: ...


class Lru:
    """Least recently used first."""

    choosy = False

    def __init__(self) -> None:
        self._used: dict[Item, int] = {}
        self._asks = 0

    def asked(self, item: Item, _t: float) -> None:
        if item in self._used:
            self._asks += 1
            self._used[item] = self._asks

    def came(self, item: Item, _nbytes: int, _t: float) -> None:
        self._asks += 1
        self._used[item] = self._asks

    def went(self, item: Item) -> None:
        del self._used[item]

    def worst(self, items: Iterable[Item], _t: float) -> Item:
        return min(items, key=self._used.__getitem__)


class Lfu:
    """Least often used since it came first; of several, the one whose last use is longest ago."""

    choosy = False

    def __init__(self) -> None:
        self._uses: dict[Item, tuple[int, int]] = {}
        self._asks = 0

    def asked(self, item: Item, _t: float) -> None:
        if item in self._uses:
            self._asks += 1
            self._uses[item] = (self._uses[item][0] + 1, self._asks)

    def came(self, item: Item, _nbytes: int, _t: float) -> None:
        self._asks += 1
        self._uses[item] = (1, self._asks)

    def went(self, item: Item) -> None:
        del self._uses[item]

    def worst(self, items: Iterable[Item], _t: float) -> Item:
        return min(items, key=self._uses.__getitem__)


class Gdsf:
    """Greedy-dual: uses since it came, by size, on top of the priority of who went last."""

    choosy = False

    def __init__(self) -> None:
        self._uses: dict[Item, int] = {}
        self._nbytes: dict[Item, int] = {}
        self._priority: dict[Item, tuple[float, int]] = {}
        self._age = 0.0
        self._asks = 0

    def asked(self, item: Item, _t: float) -> None:
        if item in self._uses:
            self._rank(item, self._uses[item] + 1)

    def came(self, item: Item, nbytes: int, _t: float) -> None:
        self._nbytes[item] = nbytes
        self._rank(item, 1)

    def went(self, item: Item) -> None:
        self._age = max(self._age, self._priority.pop(item)[0])
        del self._uses[item]

    def worst(self, items: Iterable[Item], _t: float) -> Item:
        return min(items, key=self._priority.__getitem__)

    def _rank(self, item: Item, uses: int) -> None:
        self._asks += 1
        self._uses[item] = uses
        self._priority[item] = (self._age + uses * 1e6 / self._nbytes[item], self._asks)
