"""Every sort of LoRA that a slot serves gives PEFT's own logits, to the bit; DoRA's norms are PEFT's too."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from actors.lm.adapter import base_shape, read_adapter
from actors.lm.header import AdapterError
from actors.lm.image import read_image
from actors.lm.model import Model, Part
from actors.lm.numbers import bfloat16
from actors.lm.prepare import prepare
from tests.lm.conftest import ALL_LINEAR, World, write_adapter

ROOT = Path(__file__).resolve().parents[2]
PROMPT = [5, 9, 100, 41, 7, 77, 201, 33, 2, 150]
STEPS = 4
LAYER1 = r".*\.layers\.1\.(self_attn\.v_proj|mlp\.gate_proj)"
VARIANTS = {
    "plain": {"r": 8, "lora_alpha": 16, "target_modules": ALL_LINEAR},
    "odd alpha": {"r": 6, "lora_alpha": 11, "target_modules": ALL_LINEAR},
    "rsLoRA": {"r": 4, "lora_alpha": 7, "use_rslora": True, "target_modules": ALL_LINEAR},
    "rank pattern": {
        "r": 8,
        "target_modules": ALL_LINEAR,
        "rank_pattern": {"q_proj": 3, r"layers\.1\.mlp\.up_proj": 5},
    },
    "alpha pattern": {
        "r": 8,
        "target_modules": ALL_LINEAR,
        "alpha_pattern": {"v_proj": 3, "model.layers.0.mlp.down_proj": 40},
    },
    "subset": {"r": 2, "lora_alpha": 9, "target_modules": ["v_proj", "down_proj"]},
    "regex": {"r": 2, "lora_alpha": 9, "target_modules": LAYER1},
    "some layers": {"r": 4, "target_modules": ALL_LINEAR, "layers_to_transform": [1]},
    "exclusions": {"r": 4, "target_modules": ALL_LINEAR, "exclude_modules": ["up_proj"]},
    "all-linear": {"r": 4, "target_modules": "all-linear"},
    "head": {"r": 2, "lora_alpha": 5, "target_modules": ["q_proj", "lm_head"]},
    "dropout": {"r": 4, "lora_dropout": 0.3, "target_modules": ALL_LINEAR},
    "gaussian": {"r": 4, "init_lora_weights": "gaussian", "target_modules": ALL_LINEAR},
    "DoRA": {"r": 5, "lora_alpha": 7, "use_dora": True, "target_modules": ALL_LINEAR},
    "DoRA on the head": {"r": 2, "use_dora": True, "target_modules": ["q_proj", "lm_head"]},
    "orthogonal": {"r": 4, "init_lora_weights": "orthogonal", "target_modules": ALL_LINEAR},
}


@pytest.fixture(scope="module")
def model(world):
    """The base with one slot, in fp32, on the kernels that PEFT runs."""
    options = {"slots": 1, "max_rank": 16, "kv_nbytes": 1 << 20, "kernels": "torch"}
    return Model.load(str(world.base), device="cpu", dtype="float32", **options)


@torch.inference_mode()
def ours(model, slot):
    """Logits after the prompt and after each of a few greedy tokens, [STEPS + 1, vocab]."""
    rows = [model.forward([Part(slot, PROMPT, 0, 0, wanted=True)])[0].clone()]
    for step in range(STEPS):
        token = int(rows[-1].argmax())
        rows.append(model.forward([Part(slot, [token], len(PROMPT) + step, 0, wanted=True)])[0].clone())
    return torch.stack(rows)


@torch.inference_mode()
def theirs(peft):
    """The same through PEFT and transformers' own cache."""
    out = peft(input_ids=torch.tensor([PROMPT]), logits_to_keep=1, use_cache=True)
    rows = [out.logits[0, -1]]
    for _ in range(STEPS):
        token = rows[-1].argmax()[None, None]
        out = peft(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
        rows.append(out.logits[0, -1])
    return torch.stack(rows)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.parametrize("name", VARIANTS)
def test_a_slot_gives_pefts_logits_to_the_bit(model, world, tmp_path, name):
    """Prompt and decode steps equal those of PEFT with this one adapter, and not the base's."""
    write_adapter(world.base, tmp_path / "lora", **VARIANTS[name])
    prepared = prepare(str(tmp_path / "lora"), str(world.base), 16)
    assert (prepared.kind, prepared.why) == ("slot", "")
    model.slots.fill(1, read_image(prepared.image))
    logits = ours(model, 1)
    assert torch.equal(logits, theirs(World(world.base, {name: tmp_path / "lora"}).peft(name)))
    assert not torch.equal(logits, ours(model, 0))


@pytest.fixture(scope="module")
def dora(world, tmp_path_factory):
    """A DoRA with ranks of its own for some modules."""
    path = tmp_path_factory.mktemp("dora") / "dora"
    targets = ["q_proj", "down_proj", "up_proj"]
    write_adapter(
        world.base, path, r=5, lora_alpha=7, target_modules=targets, use_dora=True, rank_pattern={"q_proj": 3}
    )
    return path


def changed(dora, path, change):
    """A copy of the DoRA with its tensors edited."""
    shutil.copytree(dora, path)
    tensors = load_file(path / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, path / "adapter_model.safetensors")
    return path


def test_dora_factors_are_those_of_peft_to_the_bit(world, dora):
    """Each output's factor is the magnitude over the norm that PEFT computes at every step."""
    adapter = read_adapter(str(dora), base_shape(str(world.base)), max_rank=16)
    layers = dict(World(world.base, {"dora": dora}).peft("dora").named_modules())
    assert len(adapter.targets) == 6
    for target in adapter.targets:
        layer = layers[f"base_model.model.{target.module}"]
        norms = layer.lora_magnitude_vector["default"]
        with torch.no_grad():
            product = norms.get_lora_weight(layer.lora_A["default"], layer.lora_B["default"])
            norm = norms.get_weight_norm(layer.get_base_layer().weight, product, layer.scaling["default"])
            assert torch.equal(torch.tensor(target.dora), norms.weight / norm)


def test_dora_is_served_by_a_slot(world, dora):
    """It is prepared as an image for a slot, the same one each time."""
    first, second = (prepare(str(dora), str(world.base), 16) for _ in range(2))
    assert (first.kind, first.rank, first.modules) == ("slot", 5, 6)
    assert first.image_digest == second.image_digest


def test_dora_on_a_node_without_the_base_is_an_error_with_a_next_step(world, dora):
    """The norms need the base's weights: ADP038 names the base and where to put the role."""
    shape = replace(base_shape(str(world.base)), path="elsewhere")
    with pytest.raises(AdapterError, match="not on this node") as refused:
        prepare(str(dora), "elsewhere", 16, shape)
    assert refused.value.code == "ADP038"
    assert "node" in refused.value.hint


def infinite(tensors):
    """Break one magnitude."""
    key = next(key for key in tensors if key.endswith("q_proj.lora_magnitude_vector"))
    tensors[key][0] = np.inf


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (lambda tensors: tensors.pop(next(k for k in tensors if "magnitude" in k)), "ADP016", "magnitude"),
        (
            lambda tensors: tensors.update({k: t[:7].copy() for k, t in tensors.items() if "magnitude" in k}),
            "ADP016",
            "(7,)",
        ),
        (infinite, "ADP013", "magnitude"),
    ],
    ids=["missing", "short", "infinite"],
)
def test_magnitudes_that_do_not_fit_are_refused(world, dora, tmp_path, change, code, says):
    """Each module needs one finite magnitude for each output."""
    path = changed(dora, tmp_path / "broken", change)
    with pytest.raises(AdapterError) as refused:
        read_adapter(str(path), base_shape(str(world.base)), max_rank=16)
    assert refused.value.code == code
    assert says in refused.value.message


def test_dora_with_an_untrained_b_still_has_an_effect(world, dora, tmp_path):
    """Magnitudes alone change the base, so zeros in every lora_B are no reason to refuse."""

    def empty(tensors):
        for key in tensors:
            if "lora_B" in key:
                tensors[key][:] = 0

    path = changed(dora, tmp_path / "lengths", empty)
    assert read_adapter(str(path), base_shape(str(world.base)), max_rank=16)


def test_magnitudes_of_which_the_config_says_nothing_are_refused(world, dora, tmp_path):
    """PEFT would ignore them: ADP023 names use_dora."""
    path = shutil.copytree(dora, tmp_path / "silent")
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**config, "use_dora": False}))
    with pytest.raises(AdapterError, match="use_dora") as refused:
        read_adapter(str(path), base_shape(str(world.base)), max_rank=16)
    assert refused.value.code == "ADP023"


def test_preparing_without_dora_loads_no_torch(world):
    """A Store's child process stays small unless a norm is to be computed."""
    code = (
        "import sys; from actors.lm.prepare import prepare;"
        f"prepare({str(world.adapters['plain'])!r}, {str(world.base)!r}, 16); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_bf16_rounds_as_torch_does():
    """Every upper half with the lower halves where rounding turns gives torch's bits, subnormals included."""
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    bits = ((np.arange(1 << 16, dtype=np.uint32) << 16)[:, None] | lower).ravel()
    values = bits.view(np.float32)
    values = values[np.isfinite(values) & (np.abs(values) < 3.38e38)]
    expected = torch.tensor(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(bfloat16(values, "values"), expected)


def test_a_value_too_large_for_bf16_is_refused(world, damaged):
    """A value that would round to infinity gives ADP040 and names the option; fp32 slots take it."""
    file = damaged / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values()))[0, 0] = np.finfo(np.float32).max
    save_file(tensors, file)
    assert prepare(str(damaged), str(world.base), 16).kind == "slot"
    with pytest.raises(AdapterError) as refused:
        prepare(str(damaged), str(world.base), 16, slot_dtype="bfloat16")
    assert refused.value.code == "ADP040"
    assert "slot_dtype" in refused.value.hint
