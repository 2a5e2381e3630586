"""The slot image: the same bytes for the same adapter, and nothing but a whole one is read."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from actors.lm.adapter import base_shape, floats, read_adapter
from actors.lm.image import build_image, build_shadow, image_digest, read_image
from placement.errors import WorldError


@pytest.fixture(scope="module")
def adapter(world):
    """An adapter with its own rank and scale for several modules."""
    return read_adapter(str(world.adapters["patterns"]), base_shape(str(world.base)), max_rank=16)


def test_an_image_holds_every_matrix_where_its_layout_says(adapter):
    """A and B lie as in the PEFT file, each at a cache line, with rank, shape and scale in the layout."""
    image = read_image(build_image(adapter))
    for patch, target in zip(image.layout, adapter.targets, strict=True):
        a = image.slot[patch.offset : patch.offset + patch.rank * patch.in_features]
        b = image.slot[patch.b_offset : patch.b_offset + patch.rank * patch.out_features]
        assert np.array_equal(a.reshape(patch.rank, -1), floats(adapter.data, target.a))
        assert np.array_equal(b.reshape(-1, patch.rank), floats(adapter.data, target.b))
        assert patch.module == target.module
        assert patch.offset % 16 == patch.b_offset % 16 == 0
    assert image.scales == tuple(target.scale for target in adapter.targets)
    assert (image.digest, image.base) == (adapter.digest, adapter.base)


def test_an_image_is_a_safetensors_file_with_one_flat_tensor(adapter):
    """Any safetensors reader opens it."""
    tensors = load(build_image(adapter).tobytes())
    assert list(tensors) == ["slot"]
    assert tensors["slot"].ndim == 1


def test_the_same_adapter_gives_the_same_bytes(adapter):
    """An image can be built again anywhere and keeps its digest."""
    assert image_digest(build_image(adapter)) == image_digest(build_image(adapter))


def test_reading_does_not_copy(adapter):
    """The view shares the buffer, which may be read-only memory of another process."""
    buffer = build_image(adapter)
    buffer.flags.writeable = False
    assert np.shares_memory(read_image(buffer).slot, buffer)


def test_a_bfloat16_image_holds_the_rounded_values_in_half_the_bytes(adapter):
    """Values are rounded as torch rounds them, and matrices still begin at cache lines."""
    image = read_image(build_image(adapter, "bfloat16"))
    for patch, target in zip(image.layout, adapter.targets, strict=True):
        rounded = torch.from_numpy(floats(adapter.data, target.b)).bfloat16().view(torch.uint16).numpy()
        b = image.slot[patch.b_offset : patch.b_offset + patch.rank * patch.out_features]
        assert np.array_equal(b.reshape(-1, patch.rank), rounded)
        assert 2 * patch.offset % 64 == 2 * patch.b_offset % 64 == 0
    assert image.layout.dtype == "bfloat16"
    assert image.layout.nbytes < 0.6 * read_image(build_image(adapter)).layout.nbytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_vector_of_a_dora_module_is_float32_in_every_slot(adapter, dtype):
    """The vector follows B at a cache line; only modules that have one make room for it."""
    g = np.random.default_rng(3).normal(1, 0.1, adapter.targets[1].out_features).astype(np.float32)
    targets = (adapter.targets[0], replace(adapter.targets[1], dora=g), *adapter.targets[2:])
    image = read_image(build_image(replace(adapter, targets=targets), dtype))
    first, second = image.layout.patches[:2]
    assert not first.dora
    assert second.dora
    start = second.g_offset * second.itemsize
    assert np.array_equal(image.slot.view(np.uint8)[start : start + g.nbytes].view(np.float32), g)
    assert start % 64 == 0


def test_adapters_of_the_same_modules_and_ranks_share_a_layout(adapter):
    """Other values and other scales make another image, but not another layout."""
    targets = tuple(replace(target, scale=2 * target.scale) for target in adapter.targets)
    other = read_image(build_image(replace(adapter, targets=targets, digest="0" * 64)))
    ours = read_image(build_image(adapter))
    assert other.layout is ours.layout
    assert other.scales == tuple(2 * scale for scale in ours.scales)


def test_a_shadow_image_keeps_both_files(adapter):
    """The config and the weights come back byte by byte, with what made a shadow necessary."""
    config = b'{"peft_type": "LORA"}'
    image = build_shadow(config, adapter.data, adapter.digest, adapter.base, "modules_to_save")
    assert sorted(load(image.tobytes())) == ["config", "weights"]
    read = read_image(image)
    assert (read.config, read.why) == (config, "modules_to_save")
    assert np.array_equal(read.weights, adapter.data)
    assert np.shares_memory(read.weights, image)
    assert (read.digest, read.base) == (adapter.digest, adapter.base)


def test_a_cut_shadow_image_is_refused(adapter):
    """A shadow that lacks bytes gives LM004, as a slot does."""
    with pytest.raises(WorldError) as refused:
        read_image(build_shadow(b"{}", adapter.data, adapter.digest, adapter.base, "why")[:-1])
    assert refused.value.code == "LM004"


@pytest.mark.parametrize(
    "broken",
    [
        lambda image: image[:-4],
        lambda image: image[:50],
        lambda image: image[:0],
        lambda image: np.concatenate([image, np.zeros(4, np.uint8)]),
        lambda _: np.frombuffer(save({"slot": np.ones(4, np.float32)}), np.uint8),
        lambda _: np.frombuffer(save({"slot": np.ones(4, np.float32)}, {"layout": "[]"}), np.uint8),
        lambda _: np.frombuffer(save({"slot": np.ones(4, np.float32)}, {"layout": "[[1,2]]"}), np.uint8),
        lambda image: np.frombuffer(image.tobytes().replace(b"tierce-slot/2", b"tierce-slot/1"), np.uint8),
        lambda image: np.frombuffer(image.tobytes().replace(b", 0, false]", b", 8, false]"), np.uint8),
        lambda image: np.frombuffer(image.tobytes().replace(b'"float32"', b'"float16"'), np.uint8),
    ],
    ids=[
        "cut",
        "stump",
        "empty",
        "longer",
        "foreign",
        "no layout",
        "odd layout",
        "format",
        "offset",
        "dtype",
    ],
)
def test_what_is_not_a_whole_image_is_refused(adapter, broken):
    """A damaged or foreign buffer gives LM004, whatever is wrong with it."""
    with pytest.raises(WorldError) as refused:
        read_image(broken(build_image(adapter)))
    assert refused.value.code == "LM004"
