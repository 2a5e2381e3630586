"""Which modules an adapter's config names: the very ones that PEFT would put LoRA on."""

import json

import pytest
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.numpy import load_file

from actors.lm.adapter import base_shape, read_adapter
from actors.lm.header import AdapterError
from actors.lm.peft_config import parse_config

LAYERS = [f"model.layers.{layer}" for layer in (0, 1, 11)]
MODULES = [
    "lm_head",
    *(f"{layer}.self_attn.{name}" for layer in LAYERS for name in ("q_proj", "v_proj", "o_proj")),
    *(f"{layer}.mlp.{name}" for layer in LAYERS for name in ("up_proj", "experts.1.up_proj", "xup_proj")),
]
CONFIG = "adapter_config.json"


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["q_proj", "up_proj"]},
        {"target_modules": ["self_attn.q_proj", "model.layers.0.mlp.up_proj", "lm_head"]},
        {"target_modules": ["proj"]},
        {"target_modules": r".*\.1\.(self_attn|mlp)\.\w+"},
        {"target_modules": "q_proj"},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["layers.1.self_attn.q_proj"]},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*\.11\..*"},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": 1},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 11], "layers_pattern": "layers"},
        {"target_modules": ["up_proj"], "layers_to_transform": [1], "layers_pattern": ["h", "experts"]},
        {"target_modules": ["up_proj"], "layers_to_transform": []},
        {"target_modules": ["lm_head", "q_proj"], "layers_to_transform": [0]},
        {"target_modules": ["model.layers.1.mlp.up_proj", "q_proj"], "layers_to_transform": [0]},
    ],
)
def test_the_config_names_the_modules_that_peft_takes(fields):
    """Names, ends of names, patterns, exclusions and layers choose exactly what they choose in PEFT."""
    peft = LoraConfig(**fields)
    ours = parse_config(fields, CONFIG).targets
    taken = [module for module in MODULES if check_target_module_exists(peft, module) is True]
    matched = [
        module for module in MODULES if getattr(check_target_module_exists(peft, module), "string", "")
    ]
    assert [module for module in MODULES if ours.names(module)] == taken + matched


def test_all_linear_is_every_linear_but_the_head():
    """PEFT's own word for all Linears leaves the output head out."""
    ours = parse_config({"target_modules": "all-linear"}, CONFIG).targets
    assert [module for module in MODULES if not ours.names(module)] == ["lm_head"]


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["q_proj"]},
        {"exclude_modules": ["layers.1.mlp.up_proj"]},
        {"layers_to_transform": [1]},
    ],
)
def test_modules_that_the_config_does_not_name_are_refused(world, damaged, fields):
    """Weights of modules that PEFT would leave untouched give ADP022 with the first of them."""
    config = json.loads((damaged / CONFIG).read_text())
    (damaged / CONFIG).write_text(json.dumps({**config, **fields}))
    with pytest.raises(AdapterError) as refused:
        read_adapter(str(damaged), base_shape(str(world.base)), max_rank=16)
    assert refused.value.code == "ADP022"
    stored = {key.partition(".lora_")[0] for key in load_file(damaged / "adapter_model.safetensors")}
    peft = LoraConfig.from_pretrained(damaged)
    modules = [key.removeprefix("base_model.model.") for key in stored]
    ignored = [module for module in modules if check_target_module_exists(peft, module) is not True]
    assert f"{len(ignored)} of 14" in refused.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": None},
        {"target_modules": []},
        {"target_modules": 5},
        {"target_modules": [5]},
        {"target_modules": "("},
        {"target_modules": ["q_proj"], "exclude_modules": "("},
        {"target_modules": ".*", "layers_to_transform": [1]},
        {"target_modules": ["q_proj"], "layers_to_transform": ["1"]},
        {"target_modules": ["q_proj"], "layers_pattern": "layers"},
        {"target_modules": ["q_proj"], "layers_to_transform": 1, "layers_pattern": "("},
        {"target_modules": ["q_proj"], "layers_to_transform": 1, "layers_pattern": ["(?P<layer>x)"]},
    ],
)
def test_targets_that_mean_nothing_are_refused(fields):
    """No targets, broken patterns, and fields that PEFT refuses beside each other give ADP002."""
    with pytest.raises(AdapterError) as refused:
        parse_config(fields, CONFIG)
    assert refused.value.code == "ADP002"
