"""KV rows: a budget in bytes is kept, or refused if nothing fits into it."""

import pytest
import torch
from transformers import Qwen3Config

from actors.lm.rows import SCRATCH, Rows
from placement.errors import UserError


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
