"""Who enters and what a step computes: the decisions of continuous batching, and nothing else. No torch."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actors.lm.prefix import Prefixes
    from actors.lm.sequence import Sequence

#: In deterministic mode prompts are cut at multiples of this many tokens, whatever room others leave.
GRID = 64
#: Prompt tokens of one forward, alone and beside sequences that answer: they bound how long one layer takes,
#: and so how long an answer waits between two of them.
ALONE_TOKENS = 256
BESIDE_TOKENS = 128
#: Chunks of one prompt forward: each costs a pair of GEMMs per Linear and an attention call per layer.
MAX_CHUNKS = 8
MAX_RUNNING = 64
#: Requests of one item that may wait; the next one is refused at once.
MAX_WAITING = 256
#: How long the next request of an item is overtaken by smaller ones of other items.
AGE_S = 5.0


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens [first, first + count) of a sequence, to be computed in the next forward."""

    sequence: Sequence
    first: int
    count: int


class Schedule:
    """The sequences of a decoder: those that wait, by item, and those that run. One thread.

    Within an item they enter in the order they came. Between items the one that has had the fewest tokens
    comes first: an item is charged its whole reservation when it enters and given back what it did not use.
    An item that comes back after a pause begins where the least served of the others stands: being away is
    no credit. One that finds no room may be overtaken by those of other items that do, for AGE_S from the
    moment it became the next of its item; then nobody enters before it. (Counted from its arrival instead,
    an item that floods the queue would come before everybody.) Who runs is never preempted.
    """

    def __init__(
        self, prefixes: Prefixes, *, deterministic: bool, max_running: int = MAX_RUNNING, age_s: float = AGE_S
    ) -> None:
        self.prefixes = prefixes
        self.running: list[Sequence] = []
        self._deterministic = deterministic
        self._max_running = max_running
        self._age_s = age_s
        #: no queue is empty
        self._waiting: dict[str, deque[Sequence]] = {}
        #: tokens that each item has had, reservations of those that run included
        self._had: dict[str, int] = {}
        #: whether the next forward of less than two cells is for the prompt that came first
        self._odd = False
        #: nobody found room, and nothing has changed since
        self._full = False

    @property
    def idle(self) -> bool:
        return not self._waiting and not self.running

    def waiting(self) -> dict[str, int]:
        """Return how many sequences of each item wait. Any thread."""
        return {item: len(queue) for item, queue in self._waiting.copy().items()}

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait behind the others of its item."""
        self._queue(sequence).append(sequence)

    def add_first(self, sequences: list[Sequence]) -> None:
        """Let sequences wait before the others of their item, in their order: their prompt was just read."""
        for sequence in reversed(sequences):
            self._queue(sequence).appendleft(sequence)

    def admit(self, now_s: float) -> None:
        """Give KV rows to whoever may enter; each begins behind what of its prompt is known already."""
        while self._waiting and len(self.running) < self._max_running and not self._full:
            self._full = not any(self._enter(head) for head in self._heads(now_s))

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that has ended, wherever it is; keep or free its rows."""
        item = sequence.caller.item
        if sequence.row is not None:
            self.running.remove(sequence)
            tokens = (sequence.prompt + sequence.out)[: sequence.written]
            self.prefixes.give(sequence.row, tokens, min(sequence.written, len(sequence.prompt)))
            self._had[item] -= sequence.rows - len(tokens)
            self._full = False
        elif sequence in self._waiting.get(item, ()):
            self._waiting[item].remove(sequence)
            self._full = False
            if not self._waiting[item]:
                del self._waiting[item]
        if self.idle:
            self._had.clear()

    def answering(self) -> list[Sequence]:
        """Return those whose prompt is read and who have not ended."""
        return [sequence for sequence in self.running if sequence.out and not sequence.over]

    def reading(self) -> list[Sequence]:
        """Return those whose prompt is not read yet and who have not ended, the oldest first."""
        return [sequence for sequence in self.running if not sequence.out and not sequence.over]

    def pieces(self, beside: int = BESIDE_TOKENS) -> list[Piece]:
        """Return what the next prompt forward computes; it has up to `beside` tokens while somebody answers.

        Half of them go to the prompt that came first, so that each is read in time (or all of them in every
        second forward, when half is less than a cell); the rest to those with the least left to read, so that
        a short one does not wait for a long one.
        """
        reading = [sequence for sequence in self.reading() if not self._follows(sequence)]
        if not reading:
            return []
        room = beside if self.answering() else ALONE_TOKENS
        self._odd = not self._odd
        half = room // 2 if room >= 2 * GRID else room * self._odd
        shares = {reading[0]: min(reading[0].unread, room if len(reading) == 1 else half)}
        room -= shares[reading[0]]
        for sequence in sorted(reading, key=lambda one: one.unread):
            more = min(room, sequence.unread - shares.get(sequence, 0))
            if more:
                shares[sequence] = shares.get(sequence, 0) + more
                room -= more
        return [piece for sequence, share in shares.items() for piece in self._cut(sequence, share)][
            :MAX_CHUNKS
        ]

    def _follows(self, sequence: Sequence) -> bool:
        """Copy what the leader of a sequence has read; tell whether it has more to read for both."""
        leader = sequence.leader
        if leader is None or sequence.row is None:
            return False
        if leader.written > sequence.written:
            sequence.written = self.prefixes.catch_up(sequence.row)
        if leader.over:
            self._find_leader(sequence)
            return sequence.leader is not None
        if leader.written < sequence.shared:
            return True
        sequence.leader = None
        return False

    def _find_leader(self, sequence: Sequence) -> None:
        """Note who reads a beginning that a sequence shares, if it is long enough to wait for."""
        content, begin, most = sequence.caller.content, sequence.prompt[:GRID], len(sequence.prompt) - 1
        sequence.leader, sequence.shared = None, 0
        for other in self.reading():
            if other is sequence:
                return
            if other.caller.content != content or other.prompt[:GRID] != begin:
                continue
            shared = min(common(other.prompt, sequence.prompt), most)
            shared -= shared % GRID if self._deterministic else 0
            if shared - sequence.written >= GRID and shared > sequence.shared:
                sequence.leader, sequence.shared = other, shared

    def _cut(self, sequence: Sequence, share: int) -> Iterator[Piece]:
        if not self._deterministic:
            yield Piece(sequence, sequence.written, share)
            return
        first, stop = sequence.written, sequence.written + share
        while first < stop:
            cell = min(first // GRID * GRID + GRID, len(sequence.prompt))
            if cell > stop:
                return
            yield Piece(sequence, first, cell - first)
            first = cell

    def _queue(self, sequence: Sequence) -> deque[Sequence]:
        item = sequence.caller.item
        if item not in self._waiting:
            self._had[item] = max(self._had.get(item, 0), self._least(item))
            self._waiting[item] = deque()
        self._full = False
        return self._waiting[item]

    def _least(self, item: str) -> int:
        """Return what the least served of the items that are here has had, up to now."""
        had = {other: self._had[other] for other in self._waiting}
        for one in self.running:
            other = one.caller.item
            had[other] = had.get(other, self._had[other]) - (one.rows - one.written)
        return 0 if item in had else min(had.values(), default=0)

    def _heads(self, now_s: float) -> list[Sequence]:
        """Return the next of each item, in order; only one if nobody may overtake it any more."""
        heads = [queue[0] for queue in self._waiting.values()]
        for head in heads:
            if head.head_s is None:
                head.head_s = now_s
        oldest = min(heads, key=_since)
        if now_s - _since(oldest) > self._age_s:
            return [oldest]
        return sorted(heads, key=lambda head: (self._had[head.caller.item], _since(head)))

    def _enter(self, sequence: Sequence) -> bool:
        caller = sequence.caller
        place = self.prefixes.take(caller.content, sequence.prompt, sequence.rows)
        if place is None:
            return False
        sequence.row, sequence.written = place
        queue = self._waiting[caller.item]
        queue.popleft()
        if not queue:
            del self._waiting[caller.item]
        self._find_leader(sequence)
        self.running.append(sequence)
        self._had[caller.item] += sequence.rows
        return True


def common(first: list[int], second: list[int]) -> int:
    """Return how many leading tokens two lists share."""
    return next(
        (place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other),
        min(len(first), len(second)),
    )


def _since(head: Sequence) -> float:
    return head.head_s or 0.0
