"""KV rows: spans never overlap, and what was given back can be taken again."""

import random
from itertools import pairwise

import pytest
import torch
from transformers import Qwen3Config

from actors.lm.rows import SCRATCH, Rows, Spans
from placement.errors import UserError


@pytest.mark.parametrize("seed", range(10))
def test_spans_never_overlap_and_nothing_is_lost(seed):
    """In random traffic taken spans are disjoint and in range, and in the end all is one gap again."""
    dice, spans, taken = random.Random(seed), Spans(1000), {}
    for _ in range(400):
        if taken and dice.random() < 0.5:
            start = dice.choice(sorted(taken))
            spans.free(start, taken.pop(start))
        else:
            size = dice.randint(1, 200)
            start = spans.take(size)
            if start is not None:
                taken[start] = size
        rows = sorted((start, start + size) for start, size in taken.items())
        assert all(0 <= start < stop <= 1000 for start, stop in rows)
        assert all(stop <= start for (_, stop), (start, _) in pairwise(rows))
        assert spans.used == sum(taken.values())
    for start, size in taken.items():
        spans.free(start, size)
    assert spans.take(1000) == 0


def test_a_full_cache_gives_none():
    """There is no partial span and no error: the caller waits."""
    spans = Spans(10)
    assert spans.take(8) == 0
    assert spans.take(3) is None
    assert spans.take(2) == 8


def config():
    """Two layers with two KV heads of 16."""
    return Qwen3Config(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16)


def test_the_budget_is_kept():
    """Keys and values take at most the bytes asked for, scratch rows included."""
    rows = Rows(config(), 100_000, torch.float32, torch.device("cpu"))
    assert rows.nbytes <= 100_000 < rows.nbytes + rows.row_nbytes
    assert rows.row_nbytes == 2 * 2 * 2 * 16 * 4
    assert rows.spans.capacity == rows.nbytes // rows.row_nbytes - SCRATCH


def test_a_budget_for_nothing_is_refused():
    """A cache in which not even a short request fits is LM009 with the bytes that are needed."""
    with pytest.raises(UserError, match="32768 bytes") as refused:
        Rows(config(), 1000, torch.float32, torch.device("cpu"))
    assert refused.value.code == "LM009"
