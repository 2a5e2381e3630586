"""Moulds: a decode step that is padded and laid out in place gives the same bits and harms nobody."""

import asyncio

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from actors.lm import varlen
from actors.lm.decoder import Decoder
from actors.lm.image import read_image
from actors.lm.model import Model, Part
from actors.lm.moulds import Moulds, bucket
from actors.lm.recordings import AFTER
from actors.lm.request import Request, Sampling
from actors.lm.varlen import Flash

PROMPT = [5, 9, 100, 41, 7]
ROOM = 8
#: slots of the rows of a step: 0 is the base, 3 has an adapter on the head, 1 and 4 are of one layout
COMPANIES = {
    "one": [1],
    "three": [2, 0, 1],
    "five, some often": [3, 1, 1, 0, 3],
    "nine": [0, 1, 2, 3, 0, 1, 2, 3, 1],
    "seventeen": [2] * 9 + [0, 1, 3, 1, 0, 2, 3, 3],
}


def load(world, **options):
    """Load the base with four slots, in fp32."""
    settings = {"device": "cpu", "dtype": "float32", "slots": 4, "max_rank": 16, "kv_nbytes": 1 << 20}
    return Model.load(str(world.base), **settings, **options)


@pytest.fixture(scope="module")
def model(world, images):
    """A deterministic base with three adapters, the first of them in two slots."""
    model = load(world, deterministic=True)
    for slot, name in enumerate(("plain", "rslora", "head", "plain"), 1):
        model.slots.fill(slot, read_image(images[name]))
    return model


def moulds_of(model, capture=None):
    """Moulds of a model in which nothing is recorded, or what `capture` records."""
    record = capture or (lambda step: step)
    return Moulds(model.net, model.slots, model.rows, model.device, model.grain, record)


def step_of(model, slots, salt=0):
    """A decode step behind a prompt that is read here, for a sequence of each of these slots."""
    rows = [ROOM * at for at in range(len(slots))]
    read = [Part(slot, PROMPT, 0, row, wanted=False) for slot, row in zip(slots, rows, strict=True)]
    model.forward([*read, Part(0, [1], 0, ROOM * len(slots), wanted=True)])
    return [
        Part(slot, [7 + at + salt], len(PROMPT), row, wanted=True)
        for at, (slot, row) in enumerate(zip(slots, rows, strict=True))
    ]


class Recorder:
    """Records a step as a device does: what only the host knew when it was recorded stays as it was."""

    def __init__(self):
        self.recorded = 0
        self.replayed = 0

    def __call__(self, step):
        self.recorded += 1
        (mould, *_) = step.args
        packed = mould.packed

        def replay():
            self.replayed += 1
            mould.packed = packed
            return step()

        return replay


def kernel(query, keys, values, first_queries, first_keys, _most_queries, _most_keys, **options):
    """What torch documents of `varlen_attn`: tensors alone say where a sequence stands and what it sees."""
    outs = []
    for index, seen in enumerate(options["seqused_k"].tolist()):
        start, stop = first_queries[index : index + 2].tolist()
        first, count = int(first_keys[index]), stop - start
        keep = torch.ones(count, seen, dtype=torch.bool).tril(seen - count)
        own = (part[first : first + seen].transpose(0, 1)[None] for part in (keys, values))
        asked = query[None, start:stop].transpose(1, 2)
        outs.append(scaled_dot_product_attention(asked, *own, keep, scale=options["scale"], enable_gqa=True))
    return torch.cat([out[0].transpose(0, 1) for out in outs])


@pytest.fixture
def _kernel(monkeypatch):
    """Attention of a whole batch in one kernel, as on CUDA."""
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(Flash, "fits", lambda *_: True)


@pytest.fixture
def recorded(model):
    """The model, and the recorder of its decode steps."""
    recorder = Recorder()
    model.record(recorder)
    yield model, recorder
    model.moulds = None


@pytest.mark.parametrize(
    ("rows", "padded"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 16), (17, 24), (25, 32), (64, 64)]
)
def test_a_step_is_padded_to_one_of_few_counts(rows, padded):
    """To 1, 2, 4, 8, and then to the next multiple of 8; where GEMMs have a grain, to whole grains."""
    assert bucket(rows) == padded
    assert bucket(rows, 16) == -(-padded // 16) * 16


@torch.inference_mode()
@pytest.mark.parametrize("slots", COMPANIES.values(), ids=COMPANIES)
def test_a_padded_step_gives_the_bits_of_the_step_as_it_is(model, slots):
    """In deterministic mode logits are equal to the bit, row by row in the order of the parts."""
    parts = step_of(model, slots)
    as_it_is = model.forward(parts).clone()
    assert torch.equal(moulds_of(model).run(parts), as_it_is)


@torch.inference_mode()
def test_padding_writes_no_row_of_a_request(model):
    """Of all rows that requests can get, a step changes the one of each of its parts."""
    parts = step_of(model, [1, 0, 3, 2, 1], salt=50)
    before = [block.clone() for layer in model.rows.layers for block in layer]
    moulds_of(model).run(parts)
    own = {part.row + part.first for part in parts}
    others = [row for row in range(model.rows.scratch) if row not in own]
    after = [block for layer in model.rows.layers for block in layer]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[:, others].nan_to_num(), new[:, others].nan_to_num())
        assert not torch.equal(old[:, sorted(own)], new[:, sorted(own)])


@torch.inference_mode()
def test_what_the_steps_of_a_bucket_read_and_write_lies_in_one_place(model):
    """Tokens, positions and logits of a step of three and of the next one of four have the same addresses."""
    moulds, places = moulds_of(model), []

    def note(_net, _args, told):
        places.append((told["input_ids"].data_ptr(), told["position_ids"].data_ptr()))

    hook = model.net.register_forward_pre_hook(note, with_kwargs=True)
    try:
        steps = [step_of(model, slots) for slots in ([1, 2, 0], [0, 3, 1, 1])]
        places.clear()
        logits = [moulds.run(parts).data_ptr() for parts in steps]
    finally:
        hook.remove()
    assert places[0] == places[1]
    assert logits[0] == logits[1]


@torch.inference_mode()
def test_the_same_slots_in_another_order_are_replayed_and_others_are_not(model):
    """A recording is of the slots that a bucket serves, whichever of one layout comes first."""
    recorder = Recorder()
    moulds = moulds_of(model, recorder)
    for _ in range(AFTER):
        moulds.run(step_of(model, [1, 4, 0]))
    assert (recorder.recorded, recorder.replayed) == (1, 1)
    moulds.run(step_of(model, [4, 0, 1, 0]))
    assert recorder.replayed == 2
    moulds.run(step_of(model, [1, 2, 0]))
    moulds.run(step_of(model, [1, 4, 4]))
    assert (recorder.recorded, recorder.replayed) == (1, 2)


@torch.inference_mode()
@pytest.mark.usefixtures("_kernel")
@pytest.mark.parametrize("slots", COMPANIES.values(), ids=COMPANIES)
def test_a_recorded_step_feels_nothing_that_only_the_host_knew(recorded, slots):
    """For other tokens, lengths on the host being what they were, a replay gives the bits of the step."""
    model, recorder = recorded
    for _ in range(AFTER):
        model.forward(step_of(model, slots))
    seen = recorder.replayed
    longer = [Part(part.slot, [9], part.first + 1, part.row, wanted=True) for part in step_of(model, slots)]
    replayed = model.forward(longer).clone()
    assert recorder.replayed == seen + 1
    model.moulds = None
    assert torch.equal(replayed, model.forward(longer))


@torch.inference_mode()
@pytest.mark.usefixtures("_kernel")
def test_prompts_and_mixed_steps_are_run_as_they_are(recorded):
    """So is a step with a chunk, with a row that wants no logits, and one that is interrupted by others."""
    model, recorder = recorded
    seen = recorder.recorded, recorder.replayed
    one, two = step_of(model, [1, 2])
    for _ in range(AFTER + 1):
        model.forward([one, Part(0, PROMPT, 0, 100, wanted=True)])
        model.forward([one, Part(2, two.tokens, two.first, two.row, wanted=False)])
        model.forward([one, two], interlude=lambda: None)
    assert (recorder.recorded, recorder.replayed) == seen


def test_without_a_kernel_nothing_is_recorded(recorded):
    """Views that are cut to lengths of the host would be the same at each replay: the trial gives up."""
    model, recorder = recorded
    assert recorder.recorded == 0
    assert "lengths from the host" in model.decoding


@pytest.mark.usefixtures("_kernel")
def test_a_recording_that_does_not_read_its_inputs_again_is_found_by_the_trial(model):
    """A replay that gives the same logits for other tokens is never used."""

    def stale(step):
        out = step()
        told = out.clone()
        return lambda: out.copy_(told)

    model.record(stale)
    try:
        assert "for other tokens" in model.decoding
    finally:
        model.moulds = None


@pytest.mark.usefixtures("_kernel")
async def test_answers_are_the_same_with_recorded_steps(world, images):
    """Tokens and log-probabilities of requests of several roles, begun and ended one after the other."""
    decoder = Decoder.load(
        str(world.base), device="cpu", slots=4, max_rank=16, kv_nbytes=4 << 20, deterministic=True
    )
    names = ["plain", "rslora", "head", None]
    try:
        for name in names[:3]:
            decoder.attach(name, images[name])

        async def answer(at):
            sampling = Sampling(max_tokens=6 + 3 * at, logprobs=20, temperature=at % 2, seed=at)
            request = Request(f"q{at}", names[at % 4], [3 + at, 5, 8][: 1 + at % 3], sampling)
            return [(piece.tokens, piece.logprobs) async for piece in decoder.generate(request)]

        as_they_are = await asyncio.gather(*map(answer, range(9)))
        recorder, model = Recorder(), decoder._model  # noqa: SLF001 -- what a GPU does, on a CPU
        decoder._loop.call(lambda: model.record(recorder))  # noqa: SLF001 -- as above
        assert await asyncio.gather(*map(answer, range(9))) == as_they_are
        assert recorder.replayed > recorder.recorded > 1
        assert "replayed" in str(decoder.stats())
    finally:
        decoder.stop()
