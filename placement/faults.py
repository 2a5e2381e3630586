"""What may go wrong in a pretended lab, and how often: a calm, a storm, or what the dice say."""

from dataclasses import dataclass
from typing import Protocol


class Dice(Protocol):
    """What the world needs of `random.Random`, so that the seed is the caller's."""

    def random(self) -> float: ...

    def randrange(self, stop: int, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Faults:
    """How often what goes wrong.

    Probabilities per message (`loss`, `twice`), per copy (`copy_fails`, `corrupt`), per event that the brain
    takes in (`halt`: its process ends in the middle of its commands), or per step, a second or so (the rest).
    Messages come up to `delay_s` late; where it `reorders`, calls to one node overtake each other.
    """

    delay_s: float = 0.05
    reorders: bool = False
    loss: float = 0.0
    twice: float = 0.0
    copy_fails: float = 0.0
    corrupt: float = 0.0
    node_dies: float = 0.0
    actor_dies: float = 0.0
    partition: float = 0.0
    cut_off: float = 0.0
    file_vanishes: float = 0.0
    rots: float = 0.0
    disk_fills: float = 0.0
    restart: float = 0.0
    halt: float = 0.0
    clock_jumps: float = 0.0


CALM = Faults()
STORM = Faults(
    delay_s=1.5,
    reorders=True,
    loss=0.04,
    twice=0.1,
    copy_fails=0.1,
    node_dies=0.03,
    cut_off=0.02,
    file_vanishes=0.01,
)
#: the worst that is drawn of each
WORST = Faults(
    delay_s=1.5,
    loss=0.1,
    twice=0.3,
    copy_fails=0.3,
    corrupt=0.2,
    node_dies=0.1,
    actor_dies=0.15,
    partition=0.08,
    cut_off=0.05,
    file_vanishes=0.05,
    rots=0.1,
    disk_fills=0.1,
    restart=0.08,
    halt=0.01,
    clock_jumps=0.06,
)
#: of the runs that are drawn, so many have no faults at all: there belief and truth must agree
CALM_SHARE = 0.1


def draw(dice: Dice) -> Faults:
    """Return which faults a run has, each on or off, and how strong."""
    if dice.random() < CALM_SHARE:
        return CALM

    def strength(worst: float) -> float:
        return worst * dice.random() if dice.random() < 0.5 else 0.0

    jumps = strength(WORST.clock_jumps)
    return Faults(
        delay_s=CALM.delay_s + strength(WORST.delay_s),
        # An op that a jump has ended is judged by the next beat, and that must not overtake the op's call:
        # Ray keeps the order of one caller's calls to one actor.
        reorders=not jumps and dice.random() < 0.5,
        loss=strength(WORST.loss),
        twice=strength(WORST.twice),
        copy_fails=strength(WORST.copy_fails),
        corrupt=strength(WORST.corrupt),
        node_dies=strength(WORST.node_dies),
        actor_dies=strength(WORST.actor_dies),
        partition=strength(WORST.partition),
        cut_off=strength(WORST.cut_off),
        file_vanishes=strength(WORST.file_vanishes),
        rots=strength(WORST.rots),
        disk_fills=strength(WORST.disk_fills),
        restart=strength(WORST.restart),
        halt=strength(WORST.halt),
        clock_jumps=jumps,
    )
