"""A PEFT directory: what would not serve exactly as PEFT serves it is refused before it reaches an engine."""

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from actors.lm.adapter import base_shape, floats, read_adapter
from actors.lm.base import is_head, slot_nbytes
from actors.lm.header import AdapterError
from actors.lm.image import read_image
from actors.lm.prepare import prepare
from placement.errors import UserError
from tests.lm.conftest import write_adapter

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


def refusal(path, world, max_rank=16):
    """The error that reading `path` gives."""
    with pytest.raises(AdapterError) as refused:
        read_adapter(str(path), base_shape(str(world.base)), max_rank=max_rank)
    return refused.value


def set_config(path, **fields):
    """Change fields of the adapter's config."""
    config = json.loads((path / CONFIG).read_text())
    (path / CONFIG).write_text(json.dumps({**config, **fields}))


def set_weights(path, change):
    """Let `change` edit the dict of tensors of the adapter."""
    tensors = load_file(path / WEIGHTS)
    change(tensors)
    save_file(tensors, path / WEIGHTS)


def test_a_good_adapter_gives_its_tensors(world):
    """Targets carry the ranks, shapes and scales that PEFT resolves, and the tensors bit for bit."""
    adapter = read_adapter(str(world.adapters["patterns"]), base_shape(str(world.base)), max_rank=16)
    stored = load_file(world.adapters["patterns"] / WEIGHTS)
    layers = dict(world.peft("patterns").named_modules())
    for target in adapter.targets:
        layer = layers[f"base_model.model.{target.module}"]
        assert (target.rank, target.scale) == (layer.r["default"], layer.scaling["default"])
        a = floats(adapter.data, target.a)
        assert np.array_equal(a, stored[f"base_model.model.{target.module}.lora_A.weight"])
    assert len(adapter.targets) == 14
    assert adapter.warnings == ()


def test_half_precision_is_widened_exactly(world, damaged):
    """fp16 tensors become the same values in fp32."""
    set_weights(
        damaged, lambda tensors: tensors.update({k: t.astype(np.float16) for k, t in tensors.items()})
    )
    adapter = read_adapter(str(damaged), base_shape(str(world.base)), max_rank=16)
    target = adapter.targets[0]
    stored = load_file(damaged / WEIGHTS)[f"base_model.model.{target.module}.lora_B.weight"]
    assert np.array_equal(floats(adapter.data, target.b), stored.astype(np.float32))


def test_the_digest_is_of_the_content(world, damaged):
    """A copy elsewhere has the same digest; one other byte in the config or the weights has another."""
    base = base_shape(str(world.base))
    first = read_adapter(str(world.adapters["plain"]), base, max_rank=16).digest
    assert read_adapter(str(damaged), base, max_rank=16).digest == first
    set_config(damaged, lora_alpha=12)
    second = read_adapter(str(damaged), base, max_rank=16).digest
    set_weights(damaged, lambda tensors: tensors[Q0.format("A")].__imul__(2))
    third = read_adapter(str(damaged), base, max_rank=16).digest
    assert len({first, second, third}) == 3


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"use_dora": True}, "ADP016"),
        ({"modules_to_save": ["embed_tokens"]}, "ADP016"),
        ({"modules_to_save": "embed_tokens"}, "ADP002"),
        ({"alora_invocation_tokens": [1]}, "ADP023"),
        ({"arrow_config": {"top_k": 2}}, "ADP023"),
        ({"megatron_config": {"x": 1}}, "ADP023"),
        ({"layer_replication": [[0, 1]]}, "ADP023"),
        ({"fan_in_fan_out": True}, "ADP023"),
        ({"peft_type": "PREFIX_TUNING"}, "ADP023"),
        ({"peft_type": "XLORA"}, "ADP023"),
        ({"task_type": "SEQ_CLS"}, "ADP023"),
        ({"init_lora_weights": "pissa_niter_4"}, "ADP023"),
        ({"use_something_of_next_year": True}, "ADP023"),
        ({"r": 0}, "ADP017"),
        ({"r": 10**6}, "ADP017"),
        ({"r": True}, "ADP017"),
        ({"rank_pattern": {"q_proj": -1}}, "ADP017"),
        ({"lora_alpha": 0}, "ADP018"),
        ({"lora_alpha": 1e30}, "ADP018"),
        ({"lora_alpha": "8"}, "ADP018"),
        ({"alpha_pattern": {"q_proj": 0}}, "ADP018"),
        ({"r": 4}, "ADP019"),
        ({"rank_pattern": {"v_proj": 5}}, "ADP019"),
        ({"rank_pattern": {"(": 8}}, "ADP002"),
        ({"rank_pattern": {"(?i)q_proj": 8}}, "ADP002"),
        ({"alpha_pattern": [1]}, "ADP002"),
        ({"r": 10**6, "lora_bias": True}, "ADP017"),
        ({"lora_alpha": 1e30, "lora_bias": True}, "ADP018"),
    ],
)
def test_a_config_that_is_not_served_is_refused(world, damaged, fields, code):
    """A feature, rank or alpha that slots cannot give exactly is named, never ignored."""
    set_config(damaged, **fields)
    error = refusal(damaged, world)
    assert error.code == code
    assert next(iter(fields)) in error.message or code == "ADP019"


@pytest.mark.parametrize(
    "text",
    [b"{", b"[]", b'{"r": NaN}', b'{"r": 8, "r": 9}', b"\xff", b" " * (1 << 20) + b"{}", b"[" * 100_000],
    ids=["cut", "list", "nan", "twice", "binary", "large", "deep"],
)
def test_an_unreadable_config_is_refused(world, damaged, text):
    """What is not one JSON object of sensible size gives ADP002."""
    (damaged / CONFIG).write_bytes(text)
    assert refusal(damaged, world).code == "ADP002"


def test_missing_files_are_told_apart(world, damaged):
    """No directory, no config, no weights, weights only as a pickle, a weights file that is no file."""
    assert refusal(damaged / "nowhere", world).code == "ADP001"
    (damaged / WEIGHTS).rename(damaged / "adapter_model.bin")
    error = refusal(damaged, world)
    assert (error.code, "pickle" in error.hint) == ("ADP003", True)
    (damaged / "adapter_model.bin").unlink()
    assert refusal(damaged, world).code == "ADP003"
    os.mkfifo(damaged / WEIGHTS)
    assert refusal(damaged, world).code == "ADP030"
    (damaged / CONFIG).unlink()
    error = refusal(damaged, world)
    assert error.code == "ADP001"
    assert WEIGHTS in error.message


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\x80\x02pickled", "ADP004"),
        (b"\x80\x04\x95" + bytes(5) + b"\x8c{", "ADP004"),
        (b"version https://git-lfs.github.com/spec/v1\n", "ADP005"),
        (b"", "ADP006"),
    ],
)
def test_weights_that_are_something_else_are_refused(world, damaged, content, code):
    """A pickle under the right name, a pointer and an empty file are told apart."""
    (damaged / WEIGHTS).write_bytes(content)
    assert refusal(damaged, world).code == code


def test_truncated_weights_are_refused(world, damaged):
    """A file that ends early gives ADP007 with both sizes."""
    whole = (damaged / WEIGHTS).read_bytes()
    (damaged / WEIGHTS).write_bytes(whole[:-100])
    error = refusal(damaged, world)
    assert error.code == "ADP007"
    assert f"{len(whole) - 100} of {len(whole)}" in error.message


def pop(key):
    """A change that loses a tensor."""
    return lambda tensors: tensors.pop(key)


def replace(key, value):
    """A change that puts a tensor."""
    return lambda tensors: tensors.__setitem__(key, value)


def rename(old, new):
    """Rename part of every key."""

    def change(tensors):
        renamed = {key.replace(old, new): tensor for key, tensor in tensors.items()}
        tensors.clear()
        tensors.update(renamed)

    return change


def rename_one(tensors):
    """Move one module to a layer that the base lacks."""
    for half in "AB":
        tensors[Q0.format(half).replace("layers.0", "layers.7")] = tensors.pop(Q0.format(half))


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (lambda tensors: tensors.clear(), "ADP015", "no tensor"),
        (pop(Q0.format("B")), "ADP016", "lora_A alone"),
        (replace(Q0.format("B"), np.ones((64, 4), np.float32)), "ADP016", "do not multiply"),
        (replace(Q0.format("A"), np.ones(64, np.float32)), "ADP016", "(64,) and"),
        (replace(Q0.format("A"), np.full((8, 64), np.nan, np.float32)), "ADP013", "512 values"),
        (replace(Q0.format("B"), np.full((64, 8), np.inf, np.float32)), "ADP013", "lora_B"),
        (replace(Q0.format("A"), np.ones((8, 64), np.float64)), "ADP036", "F64"),
        (rename("model.layers", "model.language_model.layers"), "ADP021", "layers.0"),
        (rename_one, "ADP020", "layers.7"),
        (replace("base_model.model.model.norm.weight", np.ones(64, np.float32) * 2), "ADP023", "norm"),
        (replace("base_model.model.model.layers.0.extra", np.ones(3, np.float32)), "ADP022", "extra"),
        (replace(Q0.format("magnitude_vector"), np.ones(64, np.float32)), "ADP023", "DoRA"),
        (
            replace("base_model.model.model.embed_tokens.token_adapter.x", np.ones(9, np.float32)),
            "ADP023",
            "tok",
        ),
    ],
)
def test_weights_that_do_not_match_are_refused(world, damaged, change, code, says):
    """Halves, shapes, values and names are each checked, and the message names the tensor."""
    set_weights(damaged, change)
    error = refusal(damaged, world)
    assert error.code == code
    assert says in error.message


def test_an_adapter_of_a_wider_base_is_refused(world, damaged):
    """The same module names with other widths are another base: ADP024 with both widths."""

    def widen(tensors):
        for half, shape in (("A", (8, 128)), ("B", (64, 8))):
            tensors[Q0.format(half)] = np.ones(shape, np.float32)

    set_weights(damaged, widen)
    error = refusal(damaged, world)
    assert error.code == "ADP024"
    assert "128 to 64" in error.message


def test_a_rank_over_the_limit_is_refused(world):
    """An engine with max_rank 4 does not take rank 8."""
    assert refusal(world.adapters["plain"], world, max_rank=4).code == "ADP017"


@pytest.mark.parametrize("half", ["A", "B"])
def test_an_adapter_without_effect_is_refused(world, damaged, half):
    """An adapter whose every lora_A, or every lora_B, is zero gives ADP037 before it reaches an engine."""

    def empty(tensors):
        for key in tensors:
            if f"lora_{half}" in key:
                tensors[key][:] = 0

    set_weights(damaged, empty)
    assert refusal(damaged, world).code == "ADP037"


def test_one_module_with_an_effect_is_enough(world, damaged):
    """Modules that were not trained may be zero beside one that was."""

    def empty(tensors):
        for key in tensors:
            if "lora_B" in key and key != Q0.format("B"):
                tensors[key][:] = 0

    set_weights(damaged, empty)
    assert read_adapter(str(damaged), base_shape(str(world.base)), max_rank=16)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_an_adapter_that_no_slot_holds_is_refused(world, tmp_path):
    """The highest rank on every module and on the head gives ADP032, as attaching it would."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    full, over = tmp_path / "full", tmp_path / "over"
    write_adapter(world.base, full, r=16, target_modules=targets)
    write_adapter(world.base, over, r=16, target_modules=[*targets, "lm_head"])
    assert read_adapter(str(full), base_shape(str(world.base)), max_rank=16)
    error = refusal(over, world)
    assert error.code == "ADP032"
    assert "lm_head" in error.message


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_vectors_of_dora_take_room_too(world, tmp_path, dtype):
    """What fills a slot is taken, and a head beside it is refused though its matrices alone would fit."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    full, over, head = tmp_path / "full", tmp_path / "over", {"lm_head": 1}
    write_adapter(world.base, full, r=16, target_modules=targets, use_dora=True)
    write_adapter(
        world.base, over, r=16, target_modules=[*targets, "lm_head"], rank_pattern=head, use_dora=True
    )
    content = read_image(prepare(str(full), str(world.base), 16, slot_dtype=dtype).image)
    itemsize = content.slot.itemsize
    assert content.layout.nbytes == slot_nbytes(body(base_shape(str(world.base))), 16, itemsize)
    with pytest.raises(AdapterError) as refused:
        prepare(str(over), str(world.base), 16, slot_dtype=dtype)
    assert refused.value.code == "ADP032"


def body(base):
    """The Linears of a base but its head."""
    return {module: shape for module, shape in base.linears.items() if not is_head(module)}


def test_a_file_larger_than_any_slot_is_not_read(world, damaged):
    """A weights file that could not fit is refused by its size alone."""
    with (damaged / WEIGHTS).open("r+b") as stream:
        stream.truncate(1 << 40)
    assert refusal(damaged, world).code == "ADP032"


def test_an_equal_copy_of_the_head_is_let_pass_and_a_changed_one_refused(world, damaged):
    """PEFT saves the head's weight beside LoRA on it: that copy must be the base's own, to the byte."""
    assert read_adapter(str(world.adapters["head"]), base_shape(str(world.base)), max_rank=16)
    shutil.copytree(world.adapters["head"], damaged, dirs_exist_ok=True)
    set_weights(damaged, lambda tensors: tensors["base_model.model.lm_head.base_layer.weight"].__imul__(1.01))
    assert refusal(damaged, world).code == "ADP023"


def test_another_base_name_with_the_same_shapes_is_a_warning(world, damaged):
    """A base that was renamed serves, and the difference is told."""
    set_config(damaged, base_model_name_or_path="elsewhere/other-model")
    adapter = read_adapter(str(damaged), base_shape(str(world.base)), max_rank=16)
    assert "elsewhere/other-model" in adapter.warnings[0]


def test_a_tokenizer_beside_the_adapter_is_ignored_and_told(world, damaged):
    """Files that would change the prompt are not used, with a warning."""
    (damaged / "tokenizer.json").write_text("{}")
    adapter = read_adapter(str(damaged), base_shape(str(world.base)), max_rank=16)
    assert "ADP026" in adapter.warnings[0]


def test_the_shape_of_a_base_comes_from_headers(world):
    """Linears, context, size and slot size are known without reading a tensor."""
    shape = base_shape(str(world.base))
    assert shape.linears["model.layers.1.mlp.down_proj"] == (64, 96)
    assert shape.linears["lm_head"] == (320, 64)
    assert (shape.context, shape.vocab, shape.tied) == (1024, 320, True)
    assert shape.nbytes == sum(
        tensor.nbytes for tensor in load_file(world.base / "model.safetensors").values()
    )
    vectors = 4 * sum(out for module, (out, _) in shape.linears.items() if module != "lm_head")
    assert shape.slot_nbytes(16) - vectors == 2 * (shape.slot_nbytes(8) - vectors)


def test_weights_that_are_not_loaded_do_not_count(world, tmp_path):
    """A second copy of the weights under other names changes nothing of the base's shape."""
    base = shutil.copytree(world.base, tmp_path / "base")
    alone = base_shape(str(base))
    tensors = load_file(base / "model.safetensors")
    save_file({f"other.{key}": tensor for key, tensor in tensors.items()}, base / "consolidated.safetensors")
    assert base_shape(str(base)) == alone


def test_the_files_of_an_index_make_one_shape(world, tmp_path):
    """Weights in several files are those that the index names; it must name some."""
    base = shutil.copytree(world.base, tmp_path / "base")
    whole = base_shape(str(base))
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    names = {key: f"model-0000{1 + (index % 2)}-of-00002.safetensors" for index, key in enumerate(tensors)}
    for name in set(names.values()):
        save_file({key: tensor for key, tensor in tensors.items() if names[key] == name}, base / name)
    save_file(tensors, base / "consolidated.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    shape = base_shape(str(base))
    assert (shape.fingerprint, shape.nbytes) == (whole.fingerprint, whole.nbytes)
    (base / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="weight_map") as refused:
        base_shape(str(base))
    assert refused.value.code == "LM010"


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors"])
def test_a_base_that_cannot_be_read_is_an_error(world, tmp_path, broken):
    """A missing or cut file of the base gives LM010 with its path."""
    base = shutil.copytree(world.base, tmp_path / "base")
    (base / broken).write_bytes((base / broken).read_bytes()[:-5])
    with pytest.raises(UserError, match=broken) as refused:
        base_shape(str(base))
    assert refused.value.code == "LM010"
    (base / broken).unlink()
    with pytest.raises(UserError) as refused:
        base_shape(str(base))
    assert refused.value.code == "LM010"


def test_a_base_without_a_context_length_is_refused(world, tmp_path):
    """A config that does not say how long a prompt may be gives LM010, not a context of nothing."""
    base = shutil.copytree(world.base, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    del config["max_position_embeddings"]
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="max_position_embeddings") as refused:
        base_shape(str(base))
    assert refused.value.code == "LM010"
