"""Keys and values that are there already: the rows of one request serve the next that begins alike.

Rows belong to a content (the digest of an adapter's image, "" for the base) and to the tokens before them,
so they are found by both. A span of rows is *running* while its request is in flight, and may be *kept*
when it has ended: kept spans fill room that nobody needs and are evicted, the least recently used first, as
soon as somebody does. A kept one may lack its head, if others have that: then it is found behind any of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from actors.lm.spans import Spans


@dataclass(slots=True, eq=False)
class Stretch:
    """A span of `size` rows from `row`, for the tokens of a request from its `first` one on.

    `written` tokens of the request are known, those before `first` included: their rows stand in other spans.
    """

    row: int
    size: int
    content: str
    #: of a running span the whole prompt, of a kept one what is written
    tokens: NDArray[np.int32]
    written: int
    used_s: float
    first: int = 0

    @property
    def stop(self) -> int:
        return self.row + self.size


class Segment(NamedTuple):
    """Tokens [start, stop) of a prompt, whose rows stand in `source`."""

    source: Stretch
    start: int
    stop: int


class Prefixes:
    """Gives out the rows of `spans` and knows what they hold. One thread; nothing else may take from `spans`.

    `copy(source, target, count)` copies rows and must have done so, or have it in order before what is
    computed next, when it returns. With a `grid` over 1 only whole cells of so many tokens, counted from the
    first, that were computed as prompt are used again; with 1 any number of tokens. `clock` gives seconds.
    """

    def __init__(
        self, spans: Spans, copy: Callable[[int, int, int], None], grid: int, clock: Callable[[], float]
    ) -> None:
        self.hits = 0
        self.hit_tokens = 0
        self.evictions = 0
        self.kept_rows = 0
        self._spans = spans
        self._copy = copy
        self._grid = grid
        self._clock = clock
        #: by first row
        self._running: dict[int, Stretch] = {}
        self._kept: dict[int, Stretch] = {}
        #: both, by content
        self._of: dict[str, list[Stretch]] = {}

    @property
    def used(self) -> int:
        """Return how many rows running requests have."""
        return self._spans.used - self.kept_rows

    def take(self, content: str, tokens: Sequence[int], rows: int) -> tuple[int, int] | None:
        """Return the first of `rows` rows for a prompt, and how many of its leading tokens they hold already.

        These are at most len(tokens) - 1, for the logits after the last must be computed. `rows` is the
        length of prompt and answer. Evicts kept spans, as few as room is needed for; returns None, with
        nothing evicted, while running requests leave no room.
        """
        if not any(size >= rows for _, size in self._runs(self._kept.values())):
            return None
        prompt = np.array(tokens, dtype=np.int32)
        known = self._known(self._of.get(content, ()), prompt, 0, len(prompt) - 1)
        count, row = _reach(known, 0), None
        self._touch(known)
        if len(known) == 1 and known[0].source.size == count:
            row = self._take_over(known[0].source, rows, lossless=True)
        if row is None:
            row = self._spans.take(rows)
            if row is None:
                row = self._make_room(rows, spare=[segment.source for segment in known])
            if row is not None:
                self._bring(known, row)
        if row is None and known:
            count = known[0].stop
            row = self._take_over(known[0].source, rows, lossless=False)
        if row is None:
            row, count = self._make_room(rows, spare=()), 0
        if row is None:
            return None
        self._add(self._running, Stretch(row, rows, content, prompt, count, self._clock()))
        self._count_hit(count, fresh=count > 0)
        return row, count

    def extend(self, row: int, written: int) -> None:
        """Note that the rows of the running span at `row` hold the first `written` tokens of its request.

        Only rows that every layer has written may be told: from now on they are copied from.
        """
        stretch = self._running[row]
        stretch.written = min(written, len(stretch.tokens))

    def catch_up(self, row: int) -> int:
        """Copy what others have meanwhile written of the prompt at `row`; return how much is written now.

        For requests that entered together with the one that they share a prefix with.
        """
        stretch = self._running[row]
        begun = self._whole(stretch.written)
        known = self._known(self._of[stretch.content], stretch.tokens, begun, len(stretch.tokens) - 1)
        count = _reach(known, begun)
        if count > stretch.written:
            self._touch(known)
            self._bring(known, row)
            self._count_hit(count - stretch.written, fresh=stretch.written == 0)
            stretch.written = count
        return stretch.written

    def give(self, row: int, tokens: Sequence[int], computed_as_prompt: int) -> None:
        """End the running span at `row`, whose first rows hold `tokens`; keep of it what can be used again.

        `tokens` are those of prompt and answer whose keys and values are written (never the last of an
        answer); so many of the first as `computed_as_prompt` were computed as prompt, or copied from such. A
        head that others keep is given back if it is half of all or more: what lacks its head cannot be taken
        over in place, and a longer rest would be copied at each turn.
        """
        stretch = self._running[row]
        self._remove(self._running, stretch)
        count = len(tokens) if self._grid == 1 else min(computed_as_prompt, len(tokens))
        stretch.tokens = np.array(tokens[: self._whole(count)], dtype=np.int32)
        stretch.written, stretch.used_s = len(stretch.tokens), self._clock()
        covered: list[Stretch] = []
        others: list[Stretch] = []
        for other in self._of.get(stretch.content, ()):
            if other.row in self._kept:
                (covered if _goes_on(stretch.tokens, other.tokens) else others).append(other)
        heads = self._known(others, stretch.tokens, 0, stretch.written)
        reach = _reach(heads, 0)
        if 2 * reach >= stretch.written:
            self._touch(heads)
        else:
            reach = 0
        if reach == stretch.written:
            self._spans.free(row, stretch.size)
            return
        for other in covered:
            self._drop(other)
        if reach:
            self._spans.free(row, reach)
        if stretch.size > stretch.written:
            self._spans.free(row + stretch.written, stretch.size - stretch.written)
        stretch.row, stretch.first, stretch.size = row + reach, reach, stretch.written - reach
        self._add(self._kept, stretch)
        self.kept_rows += stretch.size

    def _whole(self, count: int) -> int:
        return count - count % self._grid

    def _known(
        self, among: Collection[Stretch], tokens: NDArray[np.int32], begun: int, most: int
    ) -> list[Segment]:
        """Return what `among` spans together hold of the first `most` of `tokens`, as far as it goes.

        Segments follow each other from token `begun` on, a number of whole cells, and as few as can be.
        """
        known: list[Segment] = []
        while (found := self._longest(among, tokens, begun, self._whole(most))) is not None:
            known.append(found)
            begun = found.stop
        return known

    def _longest(
        self, among: Collection[Stretch], tokens: NDArray[np.int32], begun: int, limit: int
    ) -> Segment | None:
        best, count = None, begun
        for stretch in among:
            most = min(stretch.written, limit)
            # a span that cannot beat the best so far costs one comparison
            if most <= count or stretch.first > begun or stretch.tokens[count] != tokens[count]:
                continue
            same = self._whole(_common(stretch.tokens[:most], tokens[:most]))
            if same > count:
                best, count = stretch, same
        return None if best is None else Segment(best, begun, count)

    def _touch(self, segments: Iterable[Segment]) -> None:
        now_s = self._clock()
        for segment in segments:
            segment.source.used_s = now_s

    def _bring(self, segments: Iterable[Segment], row: int) -> None:
        """Copy `segments` to where they belong in the span at `row`."""
        for source, start, stop in segments:
            self._copy(source.row + start - source.first, row + start, stop - start)

    def _runs(self, evicted: Iterable[Stretch]) -> Iterator[tuple[int, int]]:
        """Yield (start, size) of each gap that there would be without the kept spans `evicted`."""
        pieces = sorted([*self._spans.gaps, *((stretch.row, stretch.size) for stretch in evicted)])
        start, size = 0, 0
        for begin, more in pieces:
            if begin == start + size:
                size += more
                continue
            if size:
                yield start, size
            start, size = begin, more
        if size:
            yield start, size

    def _make_room(self, rows: int, spare: Collection[Stretch]) -> int | None:
        """Evict kept spans but `spare`, of the least recently used ones that suffice, and take `rows` rows.

        Of those used together, one goes before the head that it lacks. Returns None, with nothing evicted, if
        all of them would not suffice.
        """
        oldest = sorted(
            (one for one in self._kept.values() if one not in spare),
            key=lambda one: (one.used_s, -one.first),
        )

        def suffices(count: int) -> bool:
            return any(size >= rows for _, size in self._runs(oldest[:count]))

        if not suffices(len(oldest)):
            return None
        start = self._cheapest(oldest[: _least(len(oldest), suffices)], rows)
        self._evict(oldest, start, start + rows)
        return start if self._spans.take_at(start, rows) else None

    def _cheapest(self, evictable: Iterable[Stretch], rows: int) -> int:
        """Return from where on `rows` rows are free if as little as can be of `evictable` is gone."""
        pieces = sorted(
            [
                *((start, start + size, 0) for start, size in self._spans.gaps),
                *((one.row, one.stop, one.size) for one in evictable),
            ]
        )
        offers: list[tuple[int, int]] = []
        for index, (start, _, _) in enumerate(pieces):
            if index and pieces[index - 1][1] == start and not pieces[index - 1][2]:
                continue  # the gap before it costs nothing more
            end, lost = start, 0
            for begin, stop, cost in pieces[index:]:
                if begin != end or end - start >= rows:
                    break
                end, lost = stop, lost + cost
            if end - start >= rows:
                offers.append((lost, start))
        return min(offers)[1]

    def _take_over(self, source: Stretch, rows: int, *, lossless: bool) -> int | None:
        """Take `rows` rows from where a kept `source` begins, which is then no more; None if that cannot be.

        If it need not be `lossless`, other kept spans that stand there are evicted, and what it holds beyond
        is lost.
        """
        if source.row not in self._kept:
            return None
        if lossless:
            if not self._spans.take_at(source.stop, rows - source.size):
                return None
        else:
            stop = source.row + rows
            if not any(
                start <= source.row and stop <= start + size
                for start, size in self._runs(self._kept.values())
            ):
                return None
            self._evict([one for one in self._kept.values() if one is not source], source.row, stop)
            if source.size < rows:
                self._spans.take_at(source.stop, rows - source.size)
            elif source.size > rows:
                self._spans.free(stop, source.size - rows)
        self._remove(self._kept, source)
        self.kept_rows -= source.size
        return source.row

    def _evict(self, stretches: Iterable[Stretch], start: int, stop: int) -> None:
        for stretch in [*stretches]:
            if stretch.row < stop and start < stretch.stop:
                self._drop(stretch)
                self.evictions += 1

    def _drop(self, stretch: Stretch) -> None:
        self._remove(self._kept, stretch)
        self.kept_rows -= stretch.size
        self._spans.free(stretch.row, stretch.size)

    def _add(self, group: dict[int, Stretch], stretch: Stretch) -> None:
        group[stretch.row] = stretch
        self._of.setdefault(stretch.content, []).append(stretch)

    def _remove(self, group: dict[int, Stretch], stretch: Stretch) -> None:
        del group[stretch.row]
        same = self._of[stretch.content]
        same.remove(stretch)
        if not same:
            del self._of[stretch.content]

    def _count_hit(self, tokens: int, *, fresh: bool) -> None:
        self.hits += fresh
        self.hit_tokens += tokens


def _common(first: NDArray[np.int32], second: NDArray[np.int32]) -> int:
    """Return how many leading tokens two arrays of one length share."""
    unequal = first != second
    place = int(unequal.argmax())
    return place if unequal[place] else len(unequal)


def _goes_on(tokens: NDArray[np.int32], prefix: NDArray[np.int32]) -> bool:
    return len(prefix) < len(tokens) and bool((tokens[: len(prefix)] == prefix).all())


def _reach(segments: Sequence[Segment], begun: int) -> int:
    return segments[-1].stop if segments else begun


def _least(most: int, good: Callable[[int], bool]) -> int:
    """Return the least count up to `most` that is `good`, where every greater one is good too."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if good(middle):
            high = middle
        else:
            low = middle + 1
    return low
