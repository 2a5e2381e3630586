"""Slots: logits equal PEFT's to the bit, and what does not fit a slot never gets into one."""

import json

import numpy as np
import pytest
import torch

from actors.lm.header import AdapterError
from actors.lm.image import read_image
from actors.lm.model import Model, Part

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

PROMPT = [5, 9, 100, 41, 7, 77, 201, 33, 2, 150]
NAMES = ["plain", "rslora", "patterns", "subset", "head"]


@pytest.fixture(scope="module")
def model(world):
    """The base with four slots, in fp32."""
    return Model.load(
        str(world.base),
        device="cpu",
        dtype="float32",
        slots=4,
        max_rank=16,
        kv_nbytes=1 << 20,
        kernels="torch",
    )


@torch.inference_mode()
def ours(model, slot, tokens, steps):
    """Logits after the prompt and after each of `steps` more greedy tokens, [steps + 1, vocab]."""
    rows = [model.forward([Part(slot, tokens, 0, 0, wanted=True)])[0].clone()]
    for step in range(steps):
        token = int(rows[-1].argmax())
        rows.append(model.forward([Part(slot, [token], len(tokens) + step, 0, wanted=True)])[0].clone())
    return torch.stack(rows)


@torch.inference_mode()
def theirs(peft, tokens, steps):
    """The same through transformers' own cache."""
    out = peft(input_ids=torch.tensor([tokens]), logits_to_keep=1, use_cache=True)
    rows = [out.logits[0, -1]]
    for _ in range(steps):
        token = rows[-1].argmax()[None, None]
        out = peft(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
        rows.append(out.logits[0, -1])
    return torch.stack(rows)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("slot", [1, 3])
def test_logits_equal_peft_to_the_bit(model, world, images, name, slot):
    """Prefill and decode of one sequence give PEFT's fp32 logits exactly, in any slot."""
    model.slots.fill(slot, read_image(images[name]))
    assert torch.equal(ours(model, slot, PROMPT, 6), theirs(world.peft(name), PROMPT, 6))


def test_bf16_base_with_fp32_slots_equals_peft_to_the_bit(world, images):
    """On a bf16 base the slots stay fp32, which is what PEFT does by default."""
    model = Model.load(
        str(world.base),
        device="cpu",
        dtype="bfloat16",
        slots=1,
        max_rank=16,
        kv_nbytes=1 << 20,
        kernels="torch",
    )
    model.slots.fill(1, read_image(images["patterns"]))
    peft = world.peft("patterns", dtype=torch.bfloat16)
    assert torch.equal(ours(model, 1, PROMPT, 0), theirs(peft, PROMPT, 0))


def test_neighbours_in_a_batch_do_not_leak(model, images):
    """A batch of base and two adapters gives each row what it gives alone, up to rounding."""
    model.slots.fill(1, read_image(images["plain"]))
    model.slots.fill(2, read_image(images["rslora"]))
    alone = [ours(model, slot, PROMPT, 0)[0] for slot in (0, 1, 2)]
    with torch.inference_mode():
        batch = model.forward([Part(slot, PROMPT, 0, 20 * slot, wanted=True) for slot in (0, 1, 2)])
    for row, lone in zip(batch, alone, strict=True):
        torch.testing.assert_close(row, lone, atol=2e-5, rtol=1e-5)
    assert not torch.allclose(alone[1], alone[2], atol=1e-2)


def test_an_emptied_slot_answers_nothing_of_its_old_adapter(model, images):
    """After `empty` the slot's rows are the base's."""
    model.slots.fill(4, read_image(images["plain"]))
    model.slots.empty(4)
    assert torch.equal(ours(model, 4, PROMPT, 0), ours(model, 0, PROMPT, 0))


def relabelled(image, **changes):
    """The image with one field of its first patch changed."""
    start = 8 + int.from_bytes(image[:8].tobytes(), "little")
    header = json.loads(image[8:start].tobytes())
    layout = json.loads(header["__metadata__"]["layout"])
    fields = ["module", "rank", "in_features", "out_features"]
    for field, value in changes.items():
        layout[0][fields.index(field)] = value
    header["__metadata__"]["layout"] = json.dumps(layout)
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return np.concatenate([np.frombuffer(len(text).to_bytes(8, "little") + text, np.uint8), image[start:]])


def test_an_image_of_an_unknown_module_is_refused(model, images):
    """A layout that names a module the model lacks gives ADP020."""
    with pytest.raises(AdapterError) as refused:
        model.slots.check(read_image(relabelled(images["plain"], module="model.layers.9.mlp.up_proj")))
    assert refused.value.code == "ADP020"


def test_an_image_of_another_shape_is_refused(model, images):
    """A matrix that has another width than its Linear gives ADP024, even where the bytes would fit."""
    with pytest.raises(AdapterError) as refused:
        model.slots.check(read_image(relabelled(images["subset"], module="model.layers.0.self_attn.q_proj")))
    assert refused.value.code == "ADP024"


def test_a_rank_over_the_engine_s_is_refused(world, images):
    """An image of rank 8 does not enter slots of rank 4."""
    model = Model.load(str(world.base), device="cpu", dtype="float32", slots=1, max_rank=4, kv_nbytes=1 << 20)
    with pytest.raises(AdapterError) as refused:
        model.slots.check(read_image(images["plain"]))
    assert refused.value.code == "ADP017"


def test_the_probe_sees_each_adapter(model, images):
    """The fixed prompt differs from the base through every adapter, even one of rank 2 on two modules."""
    base = model.probe(0)
    for name in NAMES:
        model.slots.fill(1, read_image(images[name]))
        assert not torch.equal(model.probe(1), base)


@torch.inference_mode()
def test_rows_and_chunks_give_the_same_bits_in_any_company(world, images):
    """With a grain, a row's and a chunk's logits do not depend, to the bit, on what stands beside them."""
    model = Model.load(
        str(world.base),
        device="cpu",
        dtype="float32",
        slots=4,
        max_rank=16,
        kv_nbytes=1 << 20,
        deterministic=True,
    )
    model.slots.fill(1, read_image(images["plain"]))
    model.slots.fill(2, read_image(images["rslora"]))
    model.forward([Part(row % 3, PROMPT, 0, 20 * row, wanted=False) for row in range(6)])
    rows = [Part(row % 3, [7 + row], len(PROMPT), 20 * row, wanted=True) for row in range(6)]
    chunks = [Part(row % 3, PROMPT, 0, 20 * row, wanted=True) for row in range(6, 9)]
    together = model.forward([*chunks[:1], *rows, *chunks[1:]])
    for part, row in zip([*chunks[:1], *rows, *chunks[1:]], together, strict=True):
        assert torch.equal(model.forward([part])[0], row)


@torch.inference_mode()
def test_a_forward_may_run_between_the_layers_of_another(model, images):
    """An interlude decodes another sequence, with another adapter, in the middle of a prompt, both right."""
    model.slots.fill(1, read_image(images["plain"]))
    model.slots.fill(2, read_image(images["rslora"]))
    lone = [model.forward([Part(slot, PROMPT, 0, 20 * slot, wanted=True)])[0] for slot in (1, 2)]
    heard = []

    def interlude():
        heard.append(model.forward([Part(2, PROMPT, 0, 40, wanted=True)])[0])

    outer = model.forward([Part(1, PROMPT, 0, 20, wanted=True)], interlude=interlude)[0]
    assert torch.equal(outer, lone[0])
    assert len(heard) == 2
    assert all(torch.equal(inner, lone[1]) for inner in heard)
