"""Who is asked: endless draws of a rank of popularity, 0 for the most popular, as the literature has them."""

from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Protocol


class Dice(Protocol):
    """What workloads need of `random.Random`, so that the seed is the caller's."""

    def random(self) -> float: ...

    def randrange(self, stop: int, /) -> int: ...

    def gammavariate(self, alpha: float, beta: float, /) -> float: ...


Who = Callable[[Dice], Iterator[int]]


def power(roles: int, alpha: float) -> Who:
    """S-LoRA's: the place of u^(1/alpha) among the roles. With alpha 1 all are alike; less is more skewed."""

    def draw(dice: Dice) -> Iterator[int]:
        while True:
            yield int(roles * (1.0 - dice.random()) ** (1 / alpha)) % roles

    return draw


def weighted(weights: Sequence[float]) -> Who:
    """Return draws in proportion to `weights`."""
    sums = list(accumulate(weights))

    def draw(dice: Dice) -> Iterator[int]:
        while True:
            yield bisect(sums, dice.random() * sums[-1])

    return draw


def zipf(roles: int, exponent: float) -> Who:
    """Return draws in which the i-th is asked 1/i^exponent times as often as the first."""
    return weighted([rank**-exponent for rank in range(1, roles + 1)])


def geometric(roles: int, ratio: float) -> Who:
    """Punica's "Zipf-1.5": each has `ratio` times the asks of the next."""
    return weighted([ratio**-rank for rank in range(roles)])


def hot_set(roles: int, hot: int, exponent: float, each: int) -> Who:
    """PrimeLoRA's: Zipf among `hot` roles, and after `each` asks the next `hot` ones take their place."""
    inside = zipf(hot, exponent)

    def draw(dice: Dice) -> Iterator[int]:
        for asked, rank in enumerate(inside(dice)):
            yield (asked // each * hot + rank) % roles

    return draw


def in_groups(groups: int, members: int, exponent: float) -> Who:
    """Chameleon's: all groups (ranks of adapters) alike, a power law inside each."""
    inside = zipf(members, exponent)

    def draw(dice: Dice) -> Iterator[int]:
        for rank in inside(dice):
            yield rank * groups + dice.randrange(groups)

    return draw


def in_turn(roles: int) -> Who:
    """Toppings' worst case: every ask is for another role than the ones before it."""

    def draw(_dice: Dice) -> Iterator[int]:
        while True:
            yield from range(roles)

    return draw
