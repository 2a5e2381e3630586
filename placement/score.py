"""What an item is worth where it is: the seconds that its staying is likely to save, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from placement.heat import MEMORIES, SOON, count, share, soon
from placement.speed import seconds
from placement.state import NETWORK, Place
from placement.tiers import Tier
from placement.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from placement.limits import Limits
    from placement.state import Item, State


#: what a copy in main memory is worth while a seat answers, beside one without: seats are lost again
SEATED = 0.5
#: what a seat in a further engine is worth, beside one in the first: without it asks are served all the same
FURTHER = 0.5


@dataclass(frozen=True, slots=True)
class Worth:
    """Why an item is worth its place; more `total` is more, and only the order of totals means anything.

    `frequency` is how likely it is asked for within the next `SOON` asks of the lab (0 to 1), `recency` how
    little overdue that is (1: not at all), `reload_s` the seconds that asks would wait more if it was not
    there. `asks` of it are remembered by a memory of `memory` asks, the last `ago_s` ago.
    """

    frequency: float
    recency: float
    reload_s: float
    total: float
    asks: float
    memory: int
    ago_s: float

    def facts(self) -> tuple[str, ...]:
        """Return in words how often, how lately, how likely and how dear to bring back."""
        often = f"asked for {self.asks:.1f} times of late (a memory of {self.memory} asks)"
        likely = f"{self.frequency:.0%} likely within the next {SOON} asks"
        overdue = f", overdue by a factor of {1 / self.recency:.1f}" if self.recency < 0.5 else ""
        ago = f"last {format_seconds(max(self.ago_s, 0.0))} ago{overdue}"
        return often, ago, likely, f"{format_seconds(self.reload_s)} to bring it back"

    def __str__(self) -> str:
        return "{}, {}; {}; {}".format(*self.facts())


def worth(state: State, item: Item, place: Place, now_s: float, limits: Limits) -> Worth:
    """Return what an item is, or would be, worth at a place.

    The total is `frequency^a * recency^b * reload_s^c` with the weights of the file's `policy.score`: with
    a = c it puts those first whose absence would make asks wait longest in all.
    """
    memory = state.asks.best
    return Worth(
        frequency=soon(state, item),
        recency=_recency(state, item),
        reload_s=reload_seconds(state, item, place),
        total=value(state, item, place, limits),
        asks=count(state, item, memory),
        memory=MEMORIES[memory],
        ago_s=now_s - state.uses[item],
    )


def value(state: State, item: Item, place: Place, limits: Limits, *, by_bytes: bool = False) -> float:
    """Return an item's total worth at a place; `by_bytes` for the bytes that it takes, where those are short.

    The two have different units: only values of one kind can be compared.
    """
    total = (
        soon(state, item) ** limits.frequency
        * _recency(state, item) ** limits.recency
        * reload_seconds(state, item, place) ** limits.cost
    )
    return float(total / max(state.items[item].nbytes, 1) ** limits.cost if by_bytes else total)


def ranked(
    state: State, place: Place, items: Iterable[Item], now_s: float, limits: Limits, *, by_bytes: bool
) -> list[tuple[bool, float, float, Item]]:
    """Return these items of a place as (rests there, value, last use, item), who goes first at the front."""
    return sorted(
        (
            state.rest(item, now_s) == place,
            value(state, item, place, limits, by_bytes=by_bytes),
            max(state.replicas[item, place].used_s, state.uses[item]),
            item,
        )
        for item in items
    )


def reload_seconds(state: State, item: Item, place: Place) -> float:
    """Return how much longer an ask would wait if the item was not at `place`.

    A seat saves the way from memory if a copy is there, else that from the disk. Main memory saves the way to
    the engine from the disk, and half of that while a seat answers.
    """
    goal, nbytes = state.goal(item), state.items[item].nbytes
    if place != goal and state.takes_seat(item, place):
        return FURTHER * seconds(state, goal._replace(tier=Tier.RAM, device=""), goal, nbytes)
    if place.tier is Tier.VRAM and place == goal:
        near = Place(goal.node, Tier.RAM)
        if (item, near) in state.replicas:
            return seconds(state, near, goal, nbytes)
    below = _below(state, item, place)
    if below is None:
        return 0.0
    if place == goal:
        return seconds(state, below, goal, nbytes)
    saved_s = max(seconds(state, below, goal, nbytes) - seconds(state, place, goal, nbytes), 0.0)
    return saved_s * SEATED if (item, goal) in state.replicas else saved_s


def _below(state: State, item: Item, place: Place) -> Place | None:
    """Return from where the item would come if it was not at `place`, nor higher."""
    durable, landing = state.items[item].durable, state.items[item].landing
    if place == durable:
        return None
    landed = landing is not None and place != landing and state.ready(item, landing)
    return landing if durable == NETWORK and landed else durable


def _recency(state: State, item: Item) -> float:
    """Return how little overdue an item is: 1 if it was just asked for, 1/2 after its usual gap."""
    heat = state.heat.get(item)
    if heat is None or item in state.expected or item in state.warms:
        return 1.0
    slow = min(state.asks.best + 1, len(MEMORIES) - 1)
    gaps = (state.asks.number - heat.at) * share(state, item, slow)
    return 1 / (1 + gaps)
