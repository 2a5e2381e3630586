"""Loading a base: whole and as its config says, on a device that is there, or not at all."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.lm.model import Model
from placement.errors import UserError

WEIGHTS = "model.safetensors"


def refusal(base, **options):
    """The error that loading `base` gives."""
    settings = {"device": "cpu", "dtype": "float32", "slots": 1, "max_rank": 4, "kv_nbytes": 1 << 20}
    with pytest.raises(UserError) as refused:
        Model.load(str(base), **{**settings, **options})
    return refused.value


@pytest.fixture
def base(world, tmp_path):
    """A copy of the base, to be broken by a test."""
    return shutil.copytree(world.base, tmp_path / "base")


def set_config(base, **fields):
    """Change fields of the base's config."""
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, **fields}))


def test_a_base_that_lacks_a_tensor_is_refused(base):
    """A tensor that the files do not hold is LM010 with its name: no random weights in its place."""
    tensors = load_file(base / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, base / WEIGHTS, {"format": "pt"})
    error = refusal(base)
    assert error.code == "LM010"
    assert "model.layers.1.mlp.up_proj.weight" in error.message


def test_a_base_that_lacks_its_untied_head_is_refused(base):
    """A head may only be missing where it is the embedding's."""
    set_config(base, tie_word_embeddings=False)
    error = refusal(base)
    assert error.code == "LM010"
    assert "lm_head.weight" in error.message


def test_a_tensor_of_another_size_is_refused(base):
    """Weights that the config does not fit are LM010 with the tensor and both sizes."""
    tensors = load_file(base / WEIGHTS)
    tensors["model.layers.0.mlp.down_proj.weight"] = torch.ones(64, 32)
    save_file(tensors, base / WEIGHTS, {"format": "pt"})
    error = refusal(base)
    assert error.code == "LM010"
    assert "model.layers.0.mlp.down_proj.weight is [64, 32], the config makes it [64, 96]" in error.message


@pytest.mark.parametrize("content", [b"", b"\x80\x02pickled", b"\xff" * 100])
def test_weights_that_cannot_be_read_are_refused(base, content):
    """What is no safetensors file is LM010 with the path, whatever the library raises."""
    (base / WEIGHTS).write_bytes(content)
    error = refusal(base)
    assert error.code == "LM010"
    assert str(base) in error.message


@pytest.mark.parametrize("device", ["cuda:0", "cuda", "cuda:99", "tpu"])
def test_a_device_that_is_not_here_is_refused(world, device, monkeypatch):
    """A device that torch does not find is LM009 with its name."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    error = refusal(world.base, device=device)
    assert error.code == "LM009"
    assert device in error.message


def test_a_device_without_room_is_refused(world):
    """A KV cache that the device cannot hold is LM009."""
    error = refusal(world.base, kv_nbytes=1 << 60)
    assert error.code == "LM009"
    assert "cpu" in error.message


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
        {
            "rope_type": "longrope",
            "factor": 2.0,
            "short_factor": [1.0] * 8,
            "long_factor": [2.0] * 8,
            "original_max_position_embeddings": 512,
            "rope_theta": 10000.0,
        },
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_positions_that_depend_on_the_neighbours_are_refused(base, rope):
    """Frequencies picked by the longest sequence of a batch are LM010 with the rope type."""
    set_config(base, rope_parameters=rope)
    error = refusal(base)
    assert error.code == "LM010"
    assert rope["rope_type"] in error.message
