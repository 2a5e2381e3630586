"""Families of models: each is served with the tokens of transformers and PEFT, or refused by name."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BartConfig, BertConfig

from actors.bench.families import EAGER, PACKED, REFUSED, SIZES, VOCAB, write
from actors.lm.base import base_shape
from actors.lm.image import read_image
from actors.lm.model import Model, Part
from actors.lm.prepare import prepare
from placement.errors import UserError
from tests.lm.families import PROMPTS, ROOM, answer, generate, load

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # PEFT adds patterns of its own for mixtures of experts, and says that they match nothing.
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys did not match:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:The following alpha_pattern keys did not match:RuntimeWarning"),
]

SERVED = {**PACKED, **EAGER}
#: Their layers have no nn.Linear.
UNADAPTED = {"gpt2"}
BART = {
    "encoder_layers": 2,
    "vocab_size": VOCAB,
    "d_model": 64,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
}


@pytest.fixture(scope="module", params=SERVED)
def family(request, tmp_path_factory):
    """One family's random model, on disk and loaded."""
    path = tmp_path_factory.mktemp(request.param)
    write(path, SERVED[request.param]())
    return load(path, request.param)


@pytest.fixture(scope="module")
def expected(family):
    """What generate answers to each prompt."""
    return [generate(family.theirs, prompt) for prompt in PROMPTS]


def test_a_prompt_alone_is_answered_as_by_generate(family, expected):
    """Greedy tokens equal generate's, for a prompt in several chunks and past the sliding window."""
    assert len(set(expected[0])) > 3  # a model that repeats itself would prove nothing
    assert answer(family.ours, PROMPTS[:1], [0]) == expected[:1]


def test_a_mixed_batch_is_answered_as_by_generate(family, expected):
    """Greedy tokens equal generate's beside prompts of other lengths."""
    assert answer(family.ours, PROMPTS, [0] * len(PROMPTS)) == expected


@torch.inference_mode()
def test_the_bits_do_not_depend_on_the_company(family):
    """In deterministic mode a prompt's and a token's logits are the same alone and among others."""
    others = [Part(0, list(range(5, 5 + count)), 0, count * ROOM, wanted=True) for count in (1, 3, 7, 11)]
    for part in (Part(0, PROMPTS[0], 0, 0, wanted=True), Part(0, [7], len(PROMPTS[0]), 0, wanted=True)):
        alone = family.ours.forward([part])[0].clone()
        assert torch.equal(family.ours.forward([*others, part])[-1], alone)


def test_each_layer_calls_the_interlude_once(family):
    """A forward pauses as many times as the model has layers."""
    calls = []
    with torch.inference_mode():
        family.ours.forward([Part(0, PROMPTS[0], 0, 0, wanted=True)], interlude=lambda: calls.append(1))
    assert len(calls) == family.theirs.config.num_hidden_layers


def test_the_headers_tell_the_linears(family):
    """What adapters are checked against, read from the files, is what the model has."""
    modules = family.theirs.named_modules()
    linears = {name: (m.out_features, m.in_features) for name, m in modules if isinstance(m, torch.nn.Linear)}
    assert base_shape(str(family.path)).linears == linears


def test_an_adapter_answers_as_in_peft(family, expected, tmp_path):
    """With LoRA on every Linear of the layers, tokens equal PEFT's, and those of the base stay its own."""
    if family.name in UNADAPTED:
        pytest.skip("no nn.Linear")
    torch.manual_seed(3)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=family.linears)
    peft = get_peft_model(family.theirs, config)
    for name, weight in peft.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    peft.save_pretrained(tmp_path)
    family.ours.slots.fill(2, read_image(prepare(str(tmp_path), str(family.path), 4).image))
    adapted = [generate(peft, prompt) for prompt in PROMPTS]
    peft.unload()
    assert adapted != expected
    batch = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[2]]
    assert answer(family.ours, batch, [2, 2, 0, 2]) == [*adapted[:2], expected[0], adapted[2]]


def refusal(path):
    """The error that loading `path` gives."""
    with pytest.raises(UserError) as refused:
        Model.load(str(path), device="cpu", dtype="float32", slots=1, max_rank=4, kv_nbytes=1 << 20)
    return refused.value


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_packed_is_refused_by_name(name, tmp_path):
    """The error has the family and the reason, before any weight is read."""
    make, reason = REFUSED[name]
    make().save_pretrained(tmp_path)
    error = refusal(tmp_path)
    assert error.code == "LM010"
    assert f"family {name} " in error.message
    assert reason in error.message


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (BertConfig(**SIZES), "see those behind"),
        (BartConfig(**BART, is_encoder_decoder=False), "when a prompt is cut or has neighbours"),
    ],
    ids=["bert", "bart"],
)
def test_what_would_answer_wrongly_is_refused(config, reason, tmp_path):
    """Attention in both directions, and positions that are counted by the batch, are found by trying."""
    write(tmp_path, config)
    error = refusal(tmp_path)
    assert error.code == "LM010"
    assert reason in error.message
