"""Several tables talk at the same time, each in its own order, which is near fixed."""

import heapq
from collections.abc import Iterator, Sequence

from placement.replay.popularity import Dice

#: speakers at each table
TABLES = (6, 5, 5, 4, 4)
#: how often somebody of the table speaks though it is another's turn
INTERRUPTS = 0.1
SPEAKS_S = (1.0, 3.0)
PAUSES_S = (0.5, 1.5)

Turn = tuple[float, int, float, int | None]


def round_tables(dice: Dice) -> Iterator[Turn]:
    """Yield turns as (time, speaker, seconds of speech, who is announced to speak next), tables merged.

    An interruption takes the announced speaker's place; the order then goes on where it was.
    """
    seats = iter(range(sum(TABLES)))
    tables = [[next(seats) for _ in range(speakers)] for speakers in TABLES]
    due = [(_between(dice, PAUSES_S), table, 0) for table in range(len(tables))]
    heapq.heapify(due)
    while True:
        t, table, turn = due[0]
        order = tables[table]
        interrupted = dice.random() < INTERRUPTS
        speaker = _other(dice, order, turn) if interrupted else order[turn]
        following = turn if interrupted else (turn + 1) % len(order)
        busy_s = _between(dice, SPEAKS_S)
        yield t, speaker, busy_s, order[following]
        heapq.heapreplace(due, (t + busy_s + _between(dice, PAUSES_S), table, following))


def _between(dice: Dice, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return low + (high - low) * dice.random()


def _other(dice: Dice, order: Sequence[int], turn: int) -> int:
    return order[(turn + 1 + dice.randrange(len(order) - 1)) % len(order)]
