"""How often each item is asked for: by several memories, of which the one that foretells best is used.

Time is counted in asks of the whole lab, so a quiet night forgets nothing and a rush forgets no faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from placement.habits import LIKELY, followed

if TYPE_CHECKING:
    from placement.state import Item, State

#: after so many asks of others, an ask counts half
MEMORIES = (25, 100, 400, 1600, 6400)
#: how fast a memory that foretells worse is given up, and trusted again
FORGIVES = 0.01
#: the part of all asks that is taken to go to anybody, whatever was learned
STRANGE = 0.05
#: "soon" is within so many asks
SOON = 2
_FADES = tuple(0.5 ** (1 / memory) for memory in MEMORIES)


@dataclass(frozen=True, slots=True)
class Heat:
    """Asks of one item by each memory, as they were at ask number `at` of the lab, which was its last."""

    counts: tuple[float, ...] = (0.0,) * len(MEMORIES)
    at: int = 0


@dataclass(frozen=True, slots=True)
class Asks:
    """Asks of all items: how many there were, by each memory, and how far each memory is trusted.

    `best` is which of MEMORIES lately foretold best who is asked.
    """

    number: int = 0
    best: int = len(MEMORIES) - 1
    totals: tuple[float, ...] = (0.0,) * len(MEMORIES)
    trust: tuple[float, ...] = (1 / len(MEMORIES),) * len(MEMORIES)


def count(state: State, item: Item, memory: int) -> float:
    """Return the asks of an item that a memory still holds."""
    heat = state.heat.get(item)
    return heat.counts[memory] * _FADES[memory] ** (state.asks.number - heat.at) if heat else 0.0


def share(state: State, item: Item, memory: int) -> float:
    """Return the part of all asks that goes to an item, as a memory has it."""
    heat, asks = state.heat.get(item), state.asks
    if heat is None or not asks.totals[memory]:
        return STRANGE / len(state.items)
    held: float = heat.counts[memory] * _FADES[memory] ** (asks.number - heat.at)
    return (1 - STRANGE) * held / asks.totals[memory] + STRANGE / len(state.items)


def soon(state: State, item: Item) -> float:
    """Return how likely an item is asked for within the next `SOON` asks: 0 to 1.

    By its share of all asks, by who was asked just now and what followed on that before, or because somebody
    said so.
    """
    if item in state.warms or item in state.expected:
        return 1.0
    by_share = 1 - (1 - share(state, item, state.asks.best)) ** SOON if item in state.heat else 0.0
    likely = state.habits.likely.get(state.items[item].name, 0.0)
    return likely if likely >= LIKELY and likely > by_share else by_share


def asked(draft: State, item: Item, times: int = 1) -> None:
    """Count `times` asks of an item."""
    asks, heat = draft.asks, draft.heat.get(item, Heat())
    told = [share(draft, item, memory) * trust for memory, trust in enumerate(asks.trust)]
    total = sum(told)
    trust = tuple((1 - FORGIVES) * part / total + FORGIVES / len(MEMORIES) for part in told)
    number = asks.number + times
    counts = tuple(
        before * fade ** (number - heat.at) + times for before, fade in zip(heat.counts, _FADES, strict=True)
    )
    totals = tuple(before * fade**times + times for before, fade in zip(asks.totals, _FADES, strict=True))
    draft.asks = Asks(number, max(range(len(trust)), key=trust.__getitem__), totals, trust)
    draft.own("heat")[item] = Heat(counts, number)
    draft.habits = followed(draft.habits, draft.items[item].name)
