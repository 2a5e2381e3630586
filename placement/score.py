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

    def __str__(self) -> str:
        often = f"asked for {self.asks:.1f} times of late (a memory of {self.memory} asks)"
        likely = f"{self.frequency:.0%} likely within the next {SOON} asks"
        overdue = f", overdue by a factor of {1 / self.recency:.1f}" if self.recency < 0.5 else ""
        ago = f"last {format_seconds(max(self.ago_s, 0.0))} ago{overdue}"
        return f"{often}, {ago}; {likely}; {format_seconds(self.reload_s)} to bring it back"


def worth(state: State, item: Item, place: Place, now_s: float, limits: Limits) -> Worth:
    """Return what an item is, or would be, worth at a place.

    The total is `frequency^a * recency^b * reload_s^c` with the weights of the file's `policy.score`: with
    a = c it puts those first whose absence would make asks wait longest in all.
    """
    memory = state.asks.best
    frequency, recency = soon(state, item), _recency(state, item)
    reload_s = reload_seconds(state, item, place)
    total = float(frequency**limits.frequency * recency**limits.recency * reload_s**limits.cost)
    ago_s = now_s - state.uses[item]
    return Worth(frequency, recency, reload_s, total, count(state, item, memory), MEMORIES[memory], ago_s)


def density(state: State, item: Item, place: Place, now_s: float, limits: Limits) -> float:
    """Return what an item is worth for the bytes that it takes: what counts where bytes are short."""
    total, nbytes = worth(state, item, place, now_s, limits).total, max(state.items[item].nbytes, 1)
    return total / float(nbytes**limits.cost)


def reload_seconds(state: State, item: Item, place: Place) -> float:
    """Return how much longer an ask would wait if the item was not at `place`.

    What is worth its seat is kept in memory below it, so a seat saves the hop from there. Main memory saves
    the way to the engine from the disk, and half of that while a seat answers.
    """
    goal, nbytes = state.goal(item), state.items[item].nbytes
    if place != goal and state.takes_seat(item, place):
        return FURTHER * seconds(state, goal._replace(tier=Tier.RAM, device=""), goal, nbytes)
    near = Place(goal.node, Tier.RAM)
    if place == goal and place.tier is Tier.VRAM and near in state.rooms:
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
    durable = state.items[item].durable
    if place == durable:
        return None
    return state.items[item].landing or durable if durable == NETWORK else durable


def _recency(state: State, item: Item) -> float:
    """Return how little overdue an item is: 1 if it was just asked for, 1/2 after its usual gap."""
    heat = state.heat.get(item)
    if heat is None or item in state.expected or item in state.warms:
        return 1.0
    slow = min(state.asks.best + 1, len(MEMORIES) - 1)
    gaps = (state.asks.number - heat.at) * share(state, item, slow)
    return 1 / (1 + gaps)
