"""KV rows: a budget in bytes is kept, or refused if nothing fits; layers keep rows of their own shape."""

import pytest
import torch

from actors.lm.rows import SCRATCH, LayerShape, Rows
from placement.errors import UserError

#: Two layers of two KV heads of 16.
SHAPES = [LayerShape(2, 16, 16)] * 2
CPU = torch.device("cpu")


def test_the_budget_is_kept():
    """Keys and values take at most the bytes asked for, scratch rows included."""
    rows = Rows(SHAPES, 100_000, torch.float32, CPU)
    assert rows.nbytes <= 100_000 < rows.nbytes + rows.row_nbytes
    assert rows.row_nbytes == 2 * 2 * 2 * 16 * 4
    assert rows.spans.capacity == rows.nbytes // rows.row_nbytes - SCRATCH


def test_a_budget_for_nothing_is_refused():
    """A cache in which not even a short request fits is LM009 with the bytes that are needed."""
    with pytest.raises(UserError, match="32768 bytes") as refused:
        Rows(SHAPES, 1000, torch.float32, CPU)
    assert refused.value.code == "LM009"


@pytest.fixture
def uneven():
    """Rows of layers that differ in heads and in the sizes of keys and values; each value is another."""
    rows = Rows(
        [LayerShape(2, 16, 8), LayerShape(1, 32, 32), LayerShape(2, 8, 8)], 1 << 16, torch.float32, CPU
    )
    for index, part in enumerate(part for layer in rows.layers for part in layer):
        part.copy_(torch.arange(part.numel()).view(part.shape) + index * 1e5)
    return rows


def test_layers_of_other_shapes_share_nothing(uneven):
    """Each layer has keys and values of its own shape, and writing one changes no other."""
    rows = uneven.layers[0][0].shape[1]
    shapes = [tuple(part.shape) for layer in uneven.layers for part in layer]
    assert shapes == [
        (2, rows, 16),
        (2, rows, 8),
        (1, rows, 32),
        (1, rows, 32),
        (2, rows, 8),
        (2, rows, 8),
    ]
    firsts = [float(part.flatten()[0]) for layer in uneven.layers for part in layer]
    assert firsts == [index * 1e5 for index in range(6)]


def test_a_copy_takes_all_layers_and_nothing_else(uneven):
    """Rows that are copied are equal in every layer's keys and values; all others stay."""
    before = [part.clone() for layer in uneven.layers for part in layer]
    uneven.copy(3, 20, 5)
    after = [part for layer in uneven.layers for part in layer]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(new[:, 20:25], old[:, 3:8])
        new[:, 20:25] = old[:, 20:25]
        assert torch.equal(new, old)


def test_a_head_s_rows_stand_together_on_a_cpu(uneven):
    """A view of some rows of one head is contiguous, and no copy."""
    keys, _ = uneven.views(5, 7)[0]
    assert keys.shape == (1, 2, 7, 16)
    assert keys[0, 1].is_contiguous()
    assert keys.data_ptr() == uneven.layers[0][0][:, 5:].data_ptr()
