"""When asks come: endless times in seconds, as the literature has them."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle

from placement.replay.popularity import Dice

When = Callable[[Dice], Iterator[float]]
Rates = Callable[[Dice], Iterator[float]]

#: of Dynamo's simulation: its step, and the share of its eight workers that one engine gets
TICK_S = 3.0
SHARE = 1 / 8


def gamma(rate: float, cv: float = 1.0) -> When:
    """S-LoRA's: intervals with `rate` asks per second and a coefficient of variation; cv 1 is Poisson."""

    def draw(dice: Dice) -> Iterator[float]:
        t = 0.0
        while True:
            t += dice.gammavariate(1 / cv**2, cv**2 / rate)
            yield t

    return draw


def by_rate(rates: Rates, step_s: float) -> When:
    """Poisson with a rate (asks per second) that holds for `step_s` each."""

    def draw(dice: Dice) -> Iterator[float]:
        begins_s, owed = 0.0, dice.gammavariate(1.0, 1.0)
        for rate in rates(dice):
            spent = 0.0
            while spent + owed <= rate * step_s:
                spent += owed
                yield begins_s + spent / rate
                owed = dice.gammavariate(1.0, 1.0)
            owed -= rate * step_s - spent
            begins_s += step_s

    return draw


def diurnal(_dice: Dice) -> Iterator[float]:
    """Dynamo's: a cosine between 10 and 50 asks in a tick, 100 ticks a day."""
    for tick in cycle(range(100)):
        yield (30 - 20 * math.cos(2 * math.pi * tick / 100)) * SHARE / TICK_S


def flash(_dice: Dice) -> Iterator[float]:
    """Dynamo's: 25 asks in a tick, five times that at ticks 50 and 130 of 200, halved every 8 ticks."""
    for tick in cycle(range(200)):
        crowd = sum(4 * 0.5 ** ((tick - at) / 8) for at in (50, 130) if tick >= at)
        yield 25 * (1 + crowd) * SHARE / TICK_S


def mmpp(dice: Dice) -> Iterator[float]:
    """Dynamo's: calm, busy or surging, 15, 40 or 70 asks in a tick, and a chain that says which is next."""
    rows = ((0.90, 0.10, 0.0), (0.15, 0.80, 0.05), (0.10, 0.20, 0.70))
    mood = 0
    while True:
        yield (15, 40, 70)[mood] * SHARE / TICK_S
        drawn = dice.random()
        mood = 0 if drawn < rows[mood][0] else 1 if drawn < rows[mood][0] + rows[mood][1] else 2


def stages(rates: Sequence[float]) -> Rates:
    """llm-d's: a ladder of rates, climbed again and again."""

    def draw(_dice: Dice) -> Iterator[float]:
        yield from cycle(rates)

    return draw
