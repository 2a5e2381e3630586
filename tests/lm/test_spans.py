"""Spans of rows: they never overlap, and what was given back can be taken again."""

import random
from itertools import pairwise

import pytest

from actors.lm.spans import Spans


@pytest.mark.parametrize("seed", range(10))
def test_spans_never_overlap_and_nothing_is_lost(seed):
    """In random traffic taken spans are disjoint and in range, and in the end all is one gap again."""
    dice, spans, taken = random.Random(seed), Spans(1000), {}
    for _ in range(400):
        deed = dice.random()
        if taken and deed < 0.3:
            start = dice.choice(sorted(taken))
            spans.free(start, taken.pop(start))
        elif taken and deed < 0.5:
            start = dice.choice(sorted(taken))
            size, taken[start] = taken[start], dice.randint(1, taken[start])
            if size > taken[start]:
                spans.free(start + taken[start], size - taken[start])
        elif taken and deed < 0.6:
            start, more = dice.choice(sorted(taken)), dice.randint(1, 50)
            if spans.take_at(start + taken[start], more):
                taken[start] += more
        else:
            size = dice.randint(1, 200)
            start = spans.take(size)
            if start is not None:
                taken[start] = size
        rows = sorted((start, start + size) for start, size in taken.items())
        assert all(0 <= start < stop <= 1000 for start, stop in rows)
        assert all(stop <= start for (_, stop), (start, _) in pairwise(rows))
        assert spans.used == sum(taken.values()) == 1000 - sum(size for _, size in spans.gaps)
        assert all(start + size < later for (start, size), (later, _) in pairwise(spans.gaps))
    for start, size in taken.items():
        spans.free(start, size)
    assert spans.take(1000) == 0


def test_a_full_cache_gives_none():
    """There is no partial span and no error: the caller waits."""
    spans = Spans(10)
    assert spans.take(8) == 0
    assert spans.take(3) is None
    assert spans.take(2) == 8


def test_rows_after_a_span_are_taken_only_from_the_gap_that_begins_there():
    """A span grows into the gap behind it, as far as that goes, and never over another span."""
    spans = Spans(10)
    assert spans.take(2) == 0
    assert spans.take_at(2, 3)
    assert not spans.take_at(2, 1)
    assert not spans.take_at(5, 6)
    assert not spans.take_at(6, 1)
    assert spans.take_at(5, 5)
    assert spans.used == 10
