"""Attention of a packed batch: what each query sees, on the CPU and as told to the kernel of a GPU."""

import pytest
import torch

from actors.lm import varlen
from actors.lm.attention import Form, Packed, Span
from actors.lm.rows import LayerShape, Rows
from actors.lm.varlen import Flash

HEADS, GROUPS, SIZE = 4, 2, 16
#: Two rows, a chunk that begins its sequence, one behind 9 others; rows of the store in another order.
SPANS = (Span(0, 1, 40, 14), Span(1, 2, 3, 1), Span(2, 8, 20, 6), Span(8, 13, 60, 14))
PADDING = 3
FORMS = {
    "plain": Form(),
    "scaled": Form(scaling=0.3),
    "window": Form(window=4),
    "softcap": Form(softcap=0.5),
    "softcap and window": Form(softcap=0.5, window=4),
    "sinks": Form(sinks=torch.tensor([0.5, -1.0, 2.0, 0.0])),
}


class Layer(torch.nn.Module):
    """The attention layer that asks."""

    layer_idx = 0


@pytest.fixture
def store():
    """Rows of one layer, all written."""
    torch.manual_seed(1)
    rows = Rows([LayerShape(GROUPS, SIZE, SIZE)], 1 << 16, torch.float32, torch.device("cpu"))
    for part in rows.layers[0]:
        part.normal_()
    return rows


def batch(spans, padding=PADDING):
    """Row numbers, queries, keys and values of every token of `spans` and of the padding."""
    rows = [row for s in spans for row in range(s.row + s.length - s.stop + s.start, s.row + s.length)]
    rows += [100] * padding
    torch.manual_seed(2)
    shapes = [(1, heads, len(rows), SIZE) for heads in (HEADS, GROUPS, GROUPS)]
    return torch.tensor(rows), *(torch.randn(shape) for shape in shapes)


def dense(query, keys, values, form):
    """Attention of one sequence, [queries, heads, size]; its last keys are those of the queries."""
    count, seen = query.shape[1], keys.shape[1]
    keys, values = (part.repeat_interleave(HEADS // GROUPS, 0) for part in (keys, values))
    scores = query @ keys.transpose(1, 2) * (form.scaling or SIZE**-0.5)
    if form.softcap:
        scores = torch.tanh(scores / form.softcap) * form.softcap
    ago = torch.arange(seen - count, seen)[:, None] - torch.arange(seen)
    scores = scores.masked_fill((ago < 0) | (ago >= (form.window or seen)), -torch.inf)
    if form.sinks is not None:
        scores = torch.cat([scores, form.sinks[:, None, None].expand(-1, count, 1)], -1)
    return (scores.softmax(-1)[..., :seen] @ values).transpose(0, 1)


def expected(store, query, form):
    """What `dense` gives for each span of the batch, once its keys are in the store."""
    keys, values = store.layers[0]
    return torch.cat(
        [
            dense(
                query[0, :, s.start : s.stop], *(p[:, s.row : s.row + s.length] for p in (keys, values)), form
            )
            for s in SPANS
        ]
    )


@pytest.mark.parametrize("name", FORMS)
def test_each_query_sees_its_own_sequence_up_to_itself(store, name):
    """Rows and chunks attend to what their window, their cap and their sinks leave; padding gets zeros."""
    rows, query, key, value = batch(SPANS)
    out = Packed(rows, SPANS, store).read(Layer(), query, key, value, FORMS[name])
    assert torch.equal(store.layers[0][0][:, rows[:13]], key[0, :, :13])
    assert out.shape == (1, 13 + PADDING, HEADS, SIZE)
    torch.testing.assert_close(out[0, :13], expected(store, query, FORMS[name]))
    assert not out[0, 13:].any()


def test_16_bit_rows_see_the_same(store):
    """Heads that share keys are computed together in 16 bit, with the result of each alone."""
    half = Rows([LayerShape(GROUPS, SIZE, SIZE)], 1 << 16, torch.bfloat16, torch.device("cpu"))
    for part, whole in zip(half.layers[0], store.layers[0], strict=True):
        part[:, : whole.shape[1]].copy_(whole)
    rows, query, key, value = batch(SPANS)
    exact = Packed(rows, SPANS, store).read(Layer(), query, key, value, Form())
    told = (tensor.bfloat16() for tensor in (query, key, value))
    near = Packed(rows, SPANS, half).read(Layer(), *told, Form())
    torch.testing.assert_close(near.float(), exact, atol=0.05, rtol=0.05)


def kernel(query, keys, values, first_queries, first_keys, most_queries, most_keys, **options):
    """What torch documents of `varlen_attn`, in plain operations."""
    assert query.shape[1:] == (HEADS, SIZE)
    assert keys.shape == values.shape == (most_keys, GROUPS, SIZE)
    assert {t.dtype for t in (first_queries, first_keys, options["seqused_k"])} == {torch.int32}
    assert options["enable_gqa"]
    assert options["num_splits"] == 1
    left, right = options["window_size"]
    assert right == 0
    form = Form(options["scale"], None if left < 0 else left + 1)
    outs = []
    for index, seen in enumerate(options["seqused_k"].tolist()):
        start, stop = first_queries[index : index + 2].tolist()
        assert stop - start <= most_queries
        row = int(first_keys[index])
        own = (part[row : row + seen].transpose(0, 1) for part in (keys, values))
        outs.append(dense(query[start:stop].transpose(0, 1), *own, form))
    return torch.cat(outs)


@pytest.mark.parametrize("name", ["plain", "scaled", "window"])
def test_the_kernel_is_told_the_same(store, name, monkeypatch):
    """With torch's contract of varlen attention, its arguments mean what the loop over sequences computes."""
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(Flash, "fits", lambda *_: True)
    rows, query, key, value = batch(SPANS)
    out = Packed(rows, SPANS, store).read(Layer(), query, key, value, FORMS[name])
    torch.testing.assert_close(out[0, :13], expected(store, query, FORMS[name]))
    assert not out[0, 13:].any()


def test_rows_and_chunks_go_to_the_kernel_apart(store):
    """The kernel is picked by the longest span of a call: a row must not feel that a chunk is beside it."""
    rows, *_ = batch(SPANS)
    alone, chunks = Packed(rows, SPANS, store).flashes()
    assert (alone.start, alone.stop, alone.most_queries) == (0, 2, 1)
    assert alone.first_keys.tolist()[:2] == [40, 3]
    assert (chunks.start, chunks.stop, chunks.most_queries) == (2, 13, 6)
    assert chunks.first_queries.tolist() == [0, 6, 11]
    assert chunks.seen.tolist() == [6, 14]


def test_a_cpu_has_no_kernel():
    """Tensors of a CPU, or of a size that the kernel does not take, go the other way."""
    x = torch.ones(1, 2, 3, 16, dtype=torch.bfloat16)
    assert not Flash.fits(x, x)
