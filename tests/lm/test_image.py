"""The slot image: the same bytes for the same adapter, and nothing but a whole one is read."""

import numpy as np
import pytest
from safetensors.numpy import load, save

from actors.lm.adapter import base_shape, floats, read_adapter
from actors.lm.image import build_image, image_digest, read_image
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
        assert (patch.module, patch.scale) == (target.module, target.scale)
        assert patch.offset % 16 == patch.b_offset % 16 == 0
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
        lambda image: np.frombuffer(image.tobytes().replace(b"tierce-slot/1", b"tierce-slot/9"), np.uint8),
        lambda image: np.frombuffer(image.tobytes().replace(b", 0], [", b", 8], ["), np.uint8),
    ],
    ids=["cut", "stump", "empty", "longer", "foreign", "no layout", "odd layout", "format", "offset"],
)
def test_what_is_not_a_whole_image_is_refused(adapter, broken):
    """A damaged or foreign buffer gives LM004, whatever is wrong with it."""
    with pytest.raises(WorldError) as refused:
        read_image(broken(build_image(adapter)))
    assert refused.value.code == "LM004"
