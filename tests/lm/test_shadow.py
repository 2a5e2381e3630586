"""Shadows: what no slot holds answers exactly as PEFT alone, over the base's own weights."""

import gc
import json
import shutil
import warnings
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora import config as lora
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from actors.lm.adapter import base_shape, read_adapter
from actors.lm.header import AdapterError
from actors.lm.image import build_shadow, read_image
from actors.lm.kernels import Cuts, Full, PackedLinear, WideEmbedding
from actors.lm.model import Model, Part
from actors.lm.prepare import described, prepare
from actors.lm.shadow import Shadow
from actors.lm.verdict import SHADOW_TYPES
from tests.lm.conftest import SIZES

PROMPT = [5, 9, 100, 41, 7, 77, 201, 33, 2, 150]
STEPS = 3
TARGETS = ["q_proj", "v_proj"]
BD_LORA = {"target_modules_bd_a": ["q_proj"], "target_modules_bd_b": ["v_proj"], "nblocks": 2}
#: LoRA with what a slot does not have: name -> fields of its config.
LORAS = {
    "modules_to_save": {"modules_to_save": ["embed_tokens"]},
    "modules_to_save head": {"modules_to_save": ["lm_head"]},
    "modules_to_save norms": {"modules_to_save": ["input_layernorm", "norm"]},
    "tied modules_to_save": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "bias all": {"bias": "all"},
    "bias lora_only": {"bias": "lora_only"},
    "lora_bias": {"lora_bias": True},
    "trainable tokens": {"trainable_token_indices": [5, 9]},
    "embeddings": {"target_modules": [*TARGETS, "embed_tokens"]},
    "DoRA on embeddings": {"target_modules": [*TARGETS, "embed_tokens"], "use_dora": True},
    "DoRA and modules_to_save": {"use_dora": True, "modules_to_save": ["lm_head"]},
    "target_parameters": {"target_parameters": ["mlp.up_proj.weight"]},
    "VeLoRA": {"velora_config": lora.VeloraConfig()},
    "BD-LoRA": {"use_bdlora": lora.BdLoraConfig(**BD_LORA)},
    "KaSA": {"kasa_config": lora.KasaConfig()},
    "MonteCLoRA": {"monteclora_config": lora.MontecloraConfig()},
    "QALoRA": {"use_qalora": True},
}
#: What a sort of PEFT needs to fit a tiny model.
FITTED = {
    "ADALORA": {"total_step": 10},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 16},
    "FOURIERFT": {"n_frequency": 50},
    "IA3": {"feedforward_modules": []},
    "LN_TUNING": {"target_modules": ["norm", "input_layernorm"]},
    "OFT": {"oft_block_size": 0, "r": 4},
    "ROAD": {"group_size": 16},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"target_modules": ["embed_tokens"], "token_indices": [5, 9]},
    "VBLORA": {"vector_length": 16, "num_vectors": 20},
    "WAVEFT": {"n_frequency": 100},
}
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


def config_of(kind):
    """The config of one kind, small enough for the tiny model."""
    if kind in LORAS:
        return LoraConfig(**{"target_modules": TARGETS, "task_type": "CAUSAL_LM", **LORAS[kind]})
    fields = {"target_modules": TARGETS, "task_type": "CAUSAL_LM", **FITTED.get(kind, {})}
    return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)](**fields)


def write(base, path, config):
    """Save an adapter as PEFT does, with random numbers on all that it trains."""
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(path)
    return path


def load_model(base, dtype="float32"):
    """A base with two slots, on the kernels that PEFT runs."""
    options = {"slots": 2, "max_rank": 16, "kv_nbytes": 1 << 20, "kernels": "torch"}
    return Model.load(str(base), device="cpu", dtype=dtype, **options)


def load_peft(base, path, dtype=torch.float32):
    """The adapter as PEFT alone serves it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        return PeftModel.from_pretrained(alone, path).eval()


@pytest.fixture(scope="module")
def biased(make_world):
    """A tiny Qwen2, which has biases and a tied head."""
    return make_world("qwen2", "plain")


@pytest.fixture(scope="module")
def model(biased):
    """That base, with an adapter in slot 1."""
    model = load_model(biased.base)
    model.slots.fill(1, read_image(prepare(str(biased.adapters["plain"]), str(biased.base), 16).image))
    return model


@pytest.fixture(scope="module")
def saver(biased, tmp_path_factory):
    """An adapter with an embedding of its own."""
    return write(biased.base, tmp_path_factory.mktemp("saver") / "saver", config_of("modules_to_save"))


def shadow_of(path, base, model):
    """The shadow that an adapter directory becomes."""
    return Shadow.load(read_image(prepare(str(path), str(base), 16).image), model)


@torch.inference_mode()
def ours(model, slot=0, net=None, steps=STEPS):
    """Logits after the prompt and after each of a few greedy tokens, [steps + 1, vocab]."""
    through = model if net is None else replace(model, net=net)
    rows = [through.forward([Part(slot, PROMPT, 0, 0, wanted=True)])[0].clone()]
    for step in range(steps):
        part = Part(slot, [int(rows[-1].argmax())], len(PROMPT) + step, 0, wanted=True)
        rows.append(through.forward([part])[0].clone())
    return torch.stack(rows)


@torch.inference_mode()
def theirs(peft):
    """The same through PEFT and transformers' own cache."""
    last = torch.tensor([len(PROMPT) - 1])
    out = peft(input_ids=torch.tensor([PROMPT]), logits_to_keep=last, use_cache=True)
    rows = [out.logits[0, -1]]
    for _ in range(STEPS):
        token = rows[-1].argmax()[None, None]
        out = peft(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
        rows.append(out.logits[0, -1])
    return torch.stack(rows)


@pytest.mark.parametrize("kind", [*LORAS, *sorted(SHADOW_TYPES)])
def test_a_shadow_gives_pefts_logits_to_the_bit_and_the_base_feels_nothing(model, biased, tmp_path, kind):
    """Prompt and decode steps equal PEFT alone; weights, base and slots are what they were."""
    path = write(biased.base, tmp_path / "adapter", config_of(kind))
    weights = [parameter.clone() for parameter in model.net.parameters()]
    others = [ours(model, slot, steps=0) for slot in (0, 1)]
    prepared = prepare(str(path), str(biased.base), 16)
    assert prepared.kind == "shadow"
    assert prepared.why
    shadow = Shadow.load(read_image(prepared.image), model)
    logits = ours(model, net=shadow.net)
    assert torch.equal(logits, theirs(load_peft(biased.base, path)))
    assert not torch.equal(logits[:1], others[0])
    assert all(map(torch.equal, weights, model.net.parameters()))
    assert all(torch.equal(ours(model, slot, steps=0), others[slot]) for slot in (0, 1))


def test_a_bf16_base_gives_pefts_logits_too(biased, saver):
    """PEFT keeps the adapter in fp32 beside a bf16 base, and so does the shadow."""
    model = load_model(biased.base, "bfloat16")
    logits = ours(model, net=shadow_of(saver, biased.base, model).net)
    assert torch.equal(logits, theirs(load_peft(biased.base, saver, torch.bfloat16)))


def test_parameters_of_experts_are_trained_over_the_shared_ones(tmp_path):
    """LoRA on the fused experts of a mixture gives PEFT's logits, and leaves the experts alone."""
    torch.manual_seed(3)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
    config = Qwen3MoeConfig(vocab_size=320, tie_word_embeddings=True, **SIZES, **experts)
    config.initializer_range = 0.15
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path / "base")
    targets = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    path = write(
        tmp_path / "base",
        tmp_path / "adapter",
        LoraConfig(target_modules=TARGETS, target_parameters=targets, task_type="CAUSAL_LM"),
    )
    model = load_model(tmp_path / "base")
    weights = [parameter.clone() for parameter in model.net.parameters()]
    logits = ours(model, net=shadow_of(path, tmp_path / "base", model).net)
    assert torch.equal(logits, theirs(load_peft(tmp_path / "base", path)))
    assert all(map(torch.equal, weights, model.net.parameters()))


@pytest.fixture(scope="module")
def packed(biased):
    """The base with every weight packed by a kernel and a table of 16 bits, as of a 16-bit checkpoint."""
    model = load_model(biased.base)
    for slot_linear in model.slots.linears.values():
        linear = slot_linear.linear
        slot_linear.linear = PackedLinear(linear, Full.pack(linear.weight), Cuts())
    table = model.net.get_input_embeddings().to(torch.bfloat16)
    model.net.set_input_embeddings(WideEmbedding(table))
    return model


def in_16_bits(base, path):
    """PEFT alone over the same table: an adapter's own modules in fp32, the rest as rounded."""
    peft = load_peft(base, path)
    table = peft.get_base_model().model.embed_tokens
    weight = getattr(table, "original_module", getattr(table, "base_layer", table)).weight
    head = peft.get_base_model().lm_head
    head = getattr(head, "base_layer", head)
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    weight.data = weight.detach().to(torch.bfloat16).float()
    return peft


@pytest.mark.parametrize("kind", ["modules_to_save", "embeddings", "bias all", "IA3", "VERA"])
def test_a_shadow_runs_on_packed_weights(packed, biased, tmp_path, kind):
    """PEFT's layers that only call what they wrap use the base's kernels: PEFT's logits, rounded."""
    path = write(biased.base, tmp_path / "adapter", config_of(kind))
    shadow = shadow_of(path, biased.base, packed)
    torch.testing.assert_close(ours(packed, net=shadow.net), theirs(in_16_bits(biased.base, path)))


@pytest.mark.parametrize("kind", ["KaSA", "LOHA", "DoRA and modules_to_save", "trainable tokens"])
def test_a_shadow_that_needs_packed_weights_is_refused_with_the_option(packed, biased, tmp_path, kind):
    """Unpacking at each step would be slow, and changes would be lost: ADP041 says which kernels serve it."""
    path = write(biased.base, tmp_path / "adapter", config_of(kind))
    with pytest.raises(AdapterError) as refused:
        ours(packed, net=shadow_of(path, biased.base, packed).net)
    assert refused.value.code == "ADP041"
    assert "kernels: torch" in refused.value.hint


def test_a_shadow_holds_no_copy_of_the_base(model, biased, saver):
    """Every weight of the base is in the tree by its address; own are the adapter's alone."""
    shadow = shadow_of(saver, biased.base, model)
    places = {parameter.data_ptr() for parameter in shadow.net.parameters()}
    assert {parameter.data_ptr() for parameter in model.net.parameters()} <= places
    stored = load_file(saver / "adapter_model.safetensors")
    assert shadow.nbytes == sum(tensor.nbytes for tensor in stored.values())
    assert not any(parameter.requires_grad for parameter in shadow.net.parameters())
    assert not shadow.net.training


@torch.inference_mode()
def test_tokens_beside_base_and_slot_are_those_of_generate(model, biased, saver):
    """Three sequences take turns on one KV cache: base, slot and shadow each say what they say alone."""
    shadow = shadow_of(saver, biased.base, model)
    through = {0: model, 1: model, 2: replace(model, net=shadow.net)}
    said = {who: [*PROMPT] for who in through}
    for _ in range(8):
        for who, net in through.items():
            tokens = said[who] if len(said[who]) == len(PROMPT) else said[who][-1:]
            part = Part(who % 2, tokens, len(said[who]) - len(tokens), 40 * who, wanted=True)
            said[who].append(int(net.forward([part])[0].argmax()))
    ids = torch.tensor([PROMPT])
    out = load_peft(biased.base, saver).generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=0
    )
    assert said[2] == out[0].tolist()
    assert said[1][len(PROMPT) :] == biased.greedy("plain", PROMPT, 8)
    assert said[0][len(PROMPT) :] == biased.greedy(None, PROMPT, 8)


@torch.inference_mode()
def test_a_long_prompt_through_a_shadow_yields_between_layers(biased, saver):
    """The interlude of a forward is called before each layer of a shadow, as before those of the base."""
    model, calls = load_model(biased.base), []
    model.net = shadow_of(saver, biased.base, model).net
    model.forward([Part(0, PROMPT, 0, 0, wanted=True)], interlude=lambda: calls.append(1))
    assert len(calls) == SIZES["num_hidden_layers"]


def test_release_frees_the_adapter_at_once(model, biased, saver):
    """The tensors are gone though somebody still holds the tree; the base goes on."""
    shadow = shadow_of(saver, biased.base, model)
    shared = {parameter.data_ptr() for parameter in model.net.parameters()}
    own = [
        weakref.ref(parameter) for parameter in shadow.net.parameters() if parameter.data_ptr() not in shared
    ]
    before = ours(model, steps=0)
    gc.disable()
    try:
        shadow.release()
        assert own
        assert not any(gone() for gone in own)
    finally:
        gc.enable()
    assert torch.equal(ours(model, steps=0), before)


def test_loading_again_and_again_keeps_nothing(model, biased, saver):
    """After many loads only the last tree lives: nothing of the base or of PEFT holds the others."""
    image = read_image(prepare(str(saver), str(biased.base), 16).image)
    trees = []
    for _ in range(6):
        shadow = Shadow.load(image, model)
        trees.append(weakref.ref(shadow.net))
    gc.collect()
    assert [tree() is not None for tree in trees] == [False] * 5 + [True]


def test_an_image_kept_on_disk_tells_what_preparing_told(biased, saver):
    """Kind, reason, rank and modules are read from the image itself."""
    prepared = prepare(str(saver), str(biased.base), 16)
    again = described(prepared.image)
    assert (again.kind, again.why, again.rank, again.modules) == ("shadow", "modules_to_save", 8, 5)
    assert replace(again, image=prepared.image) == prepared


def edited(path, copy, change=None, **fields):
    """A copy of an adapter with other tensors or fields."""
    shutil.copytree(path, copy)
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**config, **fields}))
    if change is not None:
        tensors = load_file(copy / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, copy / "adapter_model.safetensors")
    return copy


def put(key, value):
    """A change that puts a tensor under the name that `key` ends."""

    def change(tensors):
        found = next((name for name in tensors if name.endswith(key)), key)
        tensors[found] = value(tensors.get(found)) if callable(value) else value

    return change


HEAD = "base_model.model.lm_head.base_layer.weight"


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (put("q_proj.lora_A.weight", lambda was: was * np.nan), "ADP013", "q_proj.lora_A"),
        (put("q_proj.lora_A.weight", lambda was: was.astype(np.complex64).view(np.float64)), "ADP036", "F64"),
        (put(HEAD, np.ones((320, 64), np.float32)), "ADP023", "other roles share"),
        (put("base_model.model.model.norm.weight", np.ones(64, np.float32) * 2), "ADP023", "norm"),
        (lambda tensors: tensors.pop("base_model.model.model.embed_tokens.weight"), "ADP016", "embed_tokens"),
    ],
    ids=["nan", "dtype", "another head", "another norm", "missing module"],
)
def test_weights_that_must_not_reach_peft_are_refused(biased, saver, tmp_path, change, code, says):
    """Broken numbers and weights of the base that are other ones are named before an engine sees them."""
    path = edited(saver, tmp_path / "edited", change)
    with pytest.raises(AdapterError) as refused:
        read_adapter(str(path), base_shape(str(biased.base)), max_rank=16)
    assert refused.value.code == code
    assert says in refused.value.message


def test_a_repeat_of_a_shared_weight_is_not_written_into_it(model, biased, tmp_path):
    """PEFT would copy a repeated base weight over the base's own: what all roles share is not written."""
    path = write(biased.base, tmp_path / "embeddings", config_of("embeddings"))
    assert any(".base_layer." in key for key in load_file(path / "adapter_model.safetensors"))
    embedding = model.net.get_input_embeddings().weight
    stored = embedding[0].clone()
    with torch.no_grad():
        embedding[0] = 7  # so that the repeat is another value, and a write would show
    try:
        shadow_of(path, biased.base, model)
        assert bool((embedding[0] == 7).all())
    finally:
        with torch.no_grad():
            embedding[0] = stored


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (lambda tensors: tensors.pop(next(key for key in tensors if "lora_B" in key)), {}),
        (put("base_model.model.model.layers.0.self_attn.q_proj.lora_C.weight", np.ones(3, np.float32)), {}),
        (put("q_proj.lora_A.weight", np.ones((8, 65), np.float32)), {}),
        (None, {"r": 4}),
        (None, {"target_modules": ["nowhere"]}),
    ],
    ids=["missing", "unknown", "shape", "rank", "target"],
)
def test_what_peft_cannot_load_whole_is_refused(model, biased, saver, tmp_path, change, fields):
    """A tensor too many, one too few or of another shape is ADP039, where PEFT would at best warn."""
    path = edited(saver, tmp_path / "edited", change, **fields)
    with pytest.raises(AdapterError, match="modules_to_save") as refused:
        shadow_of(path, biased.base, model)
    assert refused.value.code == "ADP039"


def test_fields_of_a_later_peft_are_refused(model, biased, tmp_path):
    """A field that this PEFT does not know would be ignored: ADP039 instead."""
    path = write(biased.base, tmp_path / "adapter", config_of("IA3"))
    fields = json.loads((path / "adapter_config.json").read_text())
    text = json.dumps({**fields, "of_next_year": 1}).encode()
    weights = np.fromfile(path / "adapter_model.safetensors", np.uint8)
    image = build_shadow(text, weights, "0" * 64, base_shape(str(biased.base)).fingerprint, "IA3")
    with pytest.raises(AdapterError, match="of_next_year") as refused:
        Shadow.load(read_image(image), model)
    assert refused.value.code == "ADP039"
