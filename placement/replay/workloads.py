"""The workloads of the literature on serving many adapters, from dice: who, when, how long, how big."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from placement.errors import UserError
from placement.replay import arrivals, popularity
from placement.replay.arrivals import When, by_rate, gamma, stages
from placement.replay.popularity import Dice, Who
from placement.replay.round_table import TABLES, Turn, round_tables
from placement.replay.trace import LATENCIES, SPEEDS, Ask, Cargo, Header, Trace
from placement.state import Item

#: an adapter of rank 64 for a model of 7B takes 100 MiB
RANK_NBYTES = 100 * 2**20 // 64
#: seconds that an ask holds its adapter
BUSY_S = (0.05, 1.0)
#: the part of all bytes that main memory holds
RAM_SHARE = 0.25
SLOTS = 8
#: asks per second of one engine, where the literature has no shape in time
RATE = 2.0


@dataclass(frozen=True, slots=True)
class Workload:
    """`roles` adapters whose ranks go round; `turns` draws the asks, roles by their place in popularity.

    `told` says in a line what it is.
    """

    told: str
    roles: int
    ranks: tuple[int, ...]
    turns: Callable[[Dice], Iterator[Turn]]


def generate(name: str, dice: Dice, asks: int, seed: int | None = None) -> Trace:
    """Return `asks` asks of a workload; equal dice give equal traces, and `seed` is what its header says.

    Which role is how popular is drawn too, so sizes and names tell nothing of it. Raises UserError TRC080
    for an unknown name.
    """
    workload = WORKLOADS.get(name)
    if workload is None:
        known = "; ".join(f"{name}: {workload.told}" for name, workload in WORKLOADS.items())
        raise UserError("TRC080", f"unknown workload {name!r}", f"workloads: {known}")
    names = [f"role-{number:03}" for number in range(workload.roles)]
    items = {
        Item(f"{role}@{number:012x}"): Cargo(workload.ranks[number % len(workload.ranks)] * RANK_NBYTES, role)
        for number, role in enumerate(names)
    }
    drawn = _shuffled(names, dice)
    total = sum(cargo.nbytes for cargo in items.values())
    header = Header(name, seed, items, SLOTS, int(RAM_SHARE * total), SPEEDS, LATENCIES)
    turns = islice(workload.turns(dice), asks)
    return Trace(
        header,
        tuple(
            Ask(round(t, 6), drawn[who], round(busy_s, 6), None if after is None else drawn[after])
            for t, who, busy_s, after in turns
        ),
    )


def _shuffled(names: list[str], dice: Dice) -> list[str]:
    left = list(names)
    return [left.pop(dice.randrange(len(left))) for _ in names]


def _asks(who: Who, when: When) -> Callable[[Dice], Iterator[Turn]]:
    def draw(dice: Dice) -> Iterator[Turn]:
        low, high = BUSY_S
        for t, role in zip(when(dice), who(dice), strict=False):
            yield t, role, low + (high - low) * dice.random(), None

    return draw


def _slora(alpha: float, told: str, cv: float = 1.0) -> Workload:
    return Workload(told, 200, (64, 32, 16, 8), _asks(popularity.power(200, alpha), gamma(RATE, cv)))


def _dynamo(rates: arrivals.Rates, told: str) -> Workload:
    when = by_rate(rates, arrivals.TICK_S)
    return Workload(told, 100, (16, 32, 64), _asks(popularity.zipf(100, 1.0), when))


_MIXED = (8, 16, 32, 64, 128)

WORKLOADS: Mapping[str, Workload] = {
    "slora-1.0": _slora(1.0, "S-LoRA's power law with alpha 1, which is uniform"),
    "slora-0.6": _slora(0.6, "S-LoRA's power law with alpha 0.6"),
    "slora-0.3": _slora(0.3, "S-LoRA's power law with alpha 0.3"),
    "slora-0.1": _slora(0.1, "S-LoRA's power law with alpha 0.1"),
    "gamma-cv4": _slora(0.3, "the same with alpha 0.3 and Gamma intervals of cv 4", 4.0),
    "zipf-1.0": Workload("Zipf 1.0", 200, _MIXED, _asks(popularity.zipf(200, 1.0), gamma(RATE))),
    "zipf-1.2": Workload(
        "InfiniLoRA's Zipf 1.2", 512, (32, 64), _asks(popularity.zipf(512, 1.2), gamma(RATE))
    ),
    "punica": Workload(
        "Punica's skew: each 1.5 times the next", 45, (16,), _asks(popularity.geometric(45, 1.5), gamma(RATE))
    ),
    "llm-d": Workload(
        "llm-d's 15 adapters of 12, 6 and 2 %, rates in stages",
        15,
        (8,),
        _asks(
            popularity.weighted([12.0] * 5 + [6.0] * 5 + [2.0] * 5),
            by_rate(stages([rate / 20 for rate in range(10, 65, 5)]), 60.0),
        ),
    ),
    "chameleon": Workload(
        "Chameleon's: ranks alike, Zipf 1.0 in each",
        100,
        _MIXED,
        _asks(popularity.in_groups(5, 20, 1.0), gamma(RATE)),
    ),
    "distinct": Workload(
        "Toppings' worst case: every ask for another role",
        200,
        (64,),
        _asks(popularity.in_turn(200), gamma(RATE)),
    ),
    "hot-set": Workload(
        "PrimeLoRA's 48 hot of 500, others every 500 asks",
        500,
        _MIXED,
        _asks(popularity.hot_set(500, 48, 1.0, 500), gamma(RATE)),
    ),
    "flash": _dynamo(arrivals.flash, "Zipf 1.0 with flash crowds of five times the rate"),
    "mmpp": _dynamo(arrivals.mmpp, "Zipf 1.0, calm, busy or surging by a Markov chain"),
    "diurnal": _dynamo(arrivals.diurnal, "Zipf 1.0 with a rate that goes by the day"),
    "round-table": Workload(
        f"{sum(TABLES)} roles at {len(TABLES)} tables, each in near fixed order, next ones announced",
        sum(TABLES),
        _MIXED,
        round_tables,
    ),
}
