"""Company: whatever stands beside a row or a chunk in a batch, its logits keep their bits."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.lm.image import read_image
from actors.lm.model import Model, Part

PROMPT = [5, 9, 100, 41, 7, 77, 201, 33, 2, 150]


def scaled(image, factor):
    """An image of the same layout whose values and first scale are `factor` times as large."""
    start = 8 + int.from_bytes(image[:8].tobytes(), "little")
    header = json.loads(image[8:start].tobytes())
    layout = json.loads(header["__metadata__"]["layout"])
    layout[0][4] *= factor
    header["__metadata__"]["layout"] = json.dumps(layout)
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    other = np.concatenate([np.frombuffer(len(text).to_bytes(8, "little") + text, np.uint8), image[start:]])
    read_image(other).slot[:] *= factor
    return other


@pytest.fixture(scope="module")
def steady(world):
    """The base with eight slots, in fp32 and deterministic: GEMMs of fixed sizes."""
    return Model.load(
        str(world.base),
        device="cpu",
        dtype="float32",
        slots=8,
        max_rank=16,
        kv_nbytes=1 << 20,
        deterministic=True,
    )


@pytest.fixture
def furnished(steady, images):
    """Slots 1, 2, 4, 6 and 7 of one layout, 3 and 5 of two others, 8 empty."""
    for slot, factor in {1: 1.0, 2: 0.5, 4: 0.7, 6: 0.9, 7: 1.1}.items():
        steady.slots.fill(slot, read_image(scaled(images["plain"], factor)))
    steady.slots.fill(3, read_image(images["rslora"]))
    steady.slots.fill(5, read_image(images["head"]))
    steady.forward([Part(slot, PROMPT, 0, 20 * slot, wanted=False) for slot in range(9)])
    return steady


COMPANIES = {
    "each slot once": list(range(9)),
    "one slot often": [4] * 16,
    "some slots often": [1, 1, 1, 2, 3, 3, 5, 5, 7, 0, 1],
    "backwards": [7, 6, 5, 4, 3, 2, 1],
}


@torch.inference_mode()
@pytest.mark.parametrize("slots", COMPANIES.values(), ids=COMPANIES)
def test_a_row_gets_the_same_bits_in_any_company(furnished, slots):
    """Whatever rows of whatever slots stand beside it, in whatever order, and beside chunks or not."""
    prompts = [Part(slot, PROMPT, 0, 20 * at, wanted=False) for at, slot in enumerate(slots)]
    rows = [Part(slot, [7 + at], len(PROMPT), 20 * at, wanted=True) for at, slot in enumerate(slots)]
    chunks = [Part(slot, PROMPT, 0, 20 * (20 + slot), wanted=True) for slot in (0, 1, 5)]
    furnished.forward(prompts)
    lone = [furnished.forward([part])[0] for part in [*rows, *chunks]]
    for parts in (rows, [*rows[:2], *chunks, *rows[2:]]):
        for part, row in zip(parts, furnished.forward(parts), strict=True):
            assert torch.equal(row, lone[[*rows, *chunks].index(part)])


@torch.inference_mode()
def test_the_number_of_the_slot_does_not_matter(furnished, images):
    """The same adapter gives the same bits in another slot, in other company."""
    slots = [1, 2, 4, 6]
    rows = [Part(slot, [7], len(PROMPT), 20 * slot, wanted=True) for slot in slots]
    before = furnished.forward(rows)[1].clone()
    furnished.slots.fill(8, read_image(scaled(images["plain"], 0.5)))
    moved = [rows[0], replace(rows[1], slot=8), Part(7, [7], len(PROMPT), 140, wanted=True)]
    assert torch.equal(furnished.forward(moved)[1], before)
    furnished.slots.empty(8)


@torch.inference_mode()
def test_a_slot_full_of_nan_does_not_touch_its_neighbours(furnished, images):
    """Rows and chunks beside a broken adapter keep their bits; only its own are NaN."""
    slots = [0, 1, 2, 3, 4, 8, 8]
    rows = [Part(slot, [7], len(PROMPT), 20 * slot, wanted=True) for slot in slots]
    chunks = [Part(slot, PROMPT, 0, 20 * (20 + slot), wanted=True) for slot in slots]
    healthy = furnished.forward(rows), furnished.forward(chunks)
    broken = images["plain"].copy()
    read_image(broken).slot[:] = np.nan
    furnished.slots.fill(8, read_image(broken))
    for parts, before in zip((rows, chunks, [*rows, *chunks]), (*healthy, torch.cat(healthy)), strict=True):
        for part, row, was in zip(parts, furnished.forward(parts), before, strict=True):
            assert bool(row.isnan().all()) if part.slot == 8 else torch.equal(row, was)
    furnished.slots.empty(8)


def test_rows_of_one_layout_make_few_runs(furnished):
    """Slots 1, 2, 4, 6 and 7 stand in two runs and a lone one, slots of other layouts in their own."""
    plan = furnished.slots.plan([7, 0, 4, 3, 2, 1, 6, 1])
    assert [(start, run.first, run.step, len(run.scales)) for start, run, _ in plan.groups] == [
        (0, 1, 1, 2),
        (2, 4, 2, 2),
        (4, 7, 0, 1),
        (5, 1, 0, 1),
        (6, 3, 0, 1),
    ]
    assert sorted(plan.order) == list(range(8))
    assert plan.order[-1] == 1


class Louder(torch.nn.Module):
    """A net of its own with the base's weights: every logit is a little larger."""

    def __init__(self, net):
        super().__init__()
        self.net = copy.deepcopy(net)

    def forward(self, **inputs):
        out = self.net(**inputs)
        out.logits = out.logits * 1.25
        return out


@pytest.fixture
def shaded(furnished):
    """The furnished model with a shadow in slot 8."""
    furnished.seat(8, Louder(furnished.net))
    yield furnished
    furnished.slots.empty(8)


@torch.inference_mode()
def test_parts_of_a_shadow_run_through_its_net(shaded):
    """In a batch with base and slots they get what they get alone, and so do the others."""
    slots = [8, 0, 1, 8, 8, 3]
    parts = [
        Part(slot, PROMPT if at % 2 else [9 + at], 0, 20 * (at + 1), wanted=at != 4)
        for at, slot in enumerate(slots)
    ]
    together = shaded.forward(parts)
    wanted = [part for part in parts if part.wanted]
    assert len(together) == len(wanted)
    for part, row in zip(wanted, together, strict=True):
        assert torch.equal(shaded.forward([part])[0], row)
    base = shaded.forward([replace(parts[0], slot=0)])[0]
    assert torch.equal(together[0], base * 1.25)


@torch.inference_mode()
def test_a_shadow_is_probed_and_calls_the_interlude(shaded):
    """The fixed prompt runs through the shadow, and others may decode between its layers."""
    assert torch.equal(shaded.probe(8), shaded.probe(0) * 1.25)
    heard = []
    shaded.forward([Part(8, PROMPT, 0, 20, wanted=True)], interlude=lambda: heard.append(1))
    assert len(heard) == 2


def test_a_slot_tells_how_it_is_served(shaded, images):
    """Filling a slot ends its shadow; an emptied slot serves nothing."""
    assert [shaded.slots.kind(slot) for slot in (1, 8)] == ["slot", "shadow"]
    shaded.slots.fill(8, read_image(images["plain"]))
    assert shaded.slots.kind(8) == "slot"
    shaded.slots.empty(8)
    assert shaded.slots.kind(8) is None
