"""Kernels: weights are packed without loss, rows keep their bits at each multiple of the grain."""

import asyncio
import copy
import json
import shutil
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM

from actors.lm.decoder import Decoder, Request, Sampling
from actors.lm.fit import fit
from actors.lm.kernels import (
    BLOCK,
    MOST_ROWS,
    CutLinear,
    Cuts,
    Dense,
    Full,
    Half,
    PackedLinear,
    WideEmbedding,
    exact_power,
    library,
)
from actors.lm.model import Model, Part
from placement.errors import UserError

PROMPT = [5, 9, 100, 41, 7, 77, 201, 33, 2, 150]
SIZES = {"slots": 1, "max_rank": 16, "kv_nbytes": 1 << 20}
needs_half = pytest.mark.skipif(Half not in library(), reason="FBGEMM does not run on this CPU")


def weight_of(*shape, seed=1, scale=0.02):
    """A random weight whose values are those of a bf16 checkpoint, in bf16."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).bfloat16()


@pytest.fixture(scope="module")
def half_base(world, tmp_path_factory):
    """The base with its weights stored in bf16."""
    base = shutil.copytree(world.base, tmp_path_factory.mktemp("half") / "base")
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    return base


@pytest.fixture(scope="module")
def half_model(half_base):
    """A model of the bf16 checkpoint as an engine loads it by default."""
    return Model.load(str(half_base), device="cpu", dtype="auto", deterministic=True, **SIZES)


def net_of(base):
    """The checkpoint as transformers loads it in fp32."""
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


@needs_half
@pytest.mark.parametrize("factor", [1.0, 2.0**-60, 2.0**60])
def test_a_bf16_weight_of_any_size_is_packed_without_loss(factor):
    """Large and tiny values, zero and both signs come back to the bit: the power of two is per tensor."""
    weight = weight_of(48, 32) * factor
    weight[0, :4] = torch.tensor([0.0, -0.0, 1.9921875, 2.0**-31]) * factor
    kernel = Half.pack(weight)
    assert kernel is not None
    assert torch.equal(kernel.dense(), weight.float())
    x = torch.randn(5, 32)
    torch.testing.assert_close(kernel(x), linear(x, weight.float()), rtol=1e-4, atol=1e-4 * factor)


@needs_half
def test_an_fp16_weight_and_one_of_zeros_are_packed_without_loss():
    """What is fp16 already stays what it is, down to its smallest number."""
    weight = torch.randn(16, 16).half()
    weight[0, 0] = 2.0**-24
    for each in (weight, torch.zeros(16, 16)):
        kernel = Half.pack(each)
        assert kernel is not None
        assert torch.equal(kernel.dense(), each.float())


@pytest.mark.parametrize("value", [0.02 + 2.0**-24, 2.0**-120, torch.inf, torch.nan])
def test_a_weight_that_fp16_cannot_hold_is_not_packed_in_it(value):
    """More bits, a wider span than 33 binades, and what is no number leave the tensor to another kernel."""
    weight = weight_of(16, 16).float()
    weight[3, 5] = value
    assert exact_power(weight) is None
    assert Half.pack(weight) is None


@pytest.mark.parametrize("kind", library(), ids=lambda kind: kind.name)
def test_each_kernel_computes_what_torch_computes(kind):
    """Within fp32 rounding of F.linear, at row counts up to a prompt's, without a change of its weight."""
    weight = weight_of(96, 64)
    kernel = kind.pack(weight)
    for rows in (1, 2, 7, 64, 200):
        x = torch.randn(rows, 64)
        torch.testing.assert_close(kernel(x), linear(x, weight.float()), rtol=1e-5, atol=1e-5)
    assert torch.equal(weight, weight_of(96, 64))


@pytest.mark.parametrize("kind", library(), ids=lambda kind: kind.name)
def test_a_weight_of_several_blocks_is_one_weight(kind):
    """A head is packed in blocks of outputs; its product and its dense weight are whole and in order."""
    weight = weight_of(2 * BLOCK // 1024 + 300, 1024)
    kernel = kind.pack(weight)
    x = torch.randn(3, 1024)
    torch.testing.assert_close(kernel(x), linear(x, weight.float()), rtol=1e-4, atol=1e-4)
    assert torch.equal(kernel.dense(), weight.float())


def test_a_batch_is_cut_into_counts_that_agree():
    """Each count is the largest that fits; without a list, any count up to the most is one call."""
    assert Cuts([4, 8, 28, 64])(100) == [64, 28, 8]
    assert Cuts([4, 8, 28, 64])(32) == [28, 4]
    assert Cuts()(33) == [33]
    assert Cuts()(MOST_ROWS + 5) == [MOST_ROWS, 5]


@pytest.mark.parametrize("auto", [True, False])
@torch.inference_mode()
def test_a_row_has_the_same_bits_at_each_multiple_of_the_grain(world, auto):
    """For each Linear of the base, whatever was chosen, up to 512 rows and at every position."""
    net = net_of(world.base)
    names = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    fitted = fit(net, torch.float32, auto=auto, deterministic=True)
    for module in map(net.get_submodule, names):
        x = torch.randn(1, module.in_features)
        wanted = module(x.expand(fitted.grain, -1))[:1]
        for rows in {fitted.grain * factor for factor in (1, 2, 3, 5, 7, 8, 9, 13, 31)} | {128, 320, 512}:
            assert (module(x.expand(rows, -1)) == wanted).all(), (rows, module)


@needs_half
@torch.inference_mode()
def test_fbgemm_is_never_run_at_a_count_that_changes_bits(half_base, monkeypatch):
    """Its blocks of one and two rows, as inside 32 rows, are cut away: every multiple of the grain agrees."""
    monkeypatch.setattr("actors.lm.fit.FASTER", 0.01)  # so that it is taken, whatever is faster
    net = AutoModelForCausalLM.from_pretrained(half_base, dtype=torch.bfloat16)
    fitted = fit(net, torch.float32, auto=True, deterministic=True)
    assert set(fitted.chosen.values()) == {Half.name}
    for module in map(net.get_submodule, fitted.chosen):
        x = torch.randn(1, module.in_features)
        wanted = module(x.expand(fitted.grain, -1))[:1]
        for rows in [*range(fitted.grain, 129, fitted.grain), 256, 512]:
            assert (module(x.expand(rows, -1)) == wanted).all(), (rows, module)


def test_every_linear_is_named_with_its_kernel_and_the_times_of_all(half_model):
    """The table of choices has each Linear, and for its shape what every candidate took."""
    packed = {name: module.linear for name, module in half_model.slots.linears.items()}
    assert half_model.kernels == {name: module.kernel.name for name, module in packed.items()}
    assert "lm_head" in half_model.kernels
    for name, module in packed.items():
        times_s = half_model.kernel_times_s[f"{module.out_features} x {module.in_features}"]
        assert half_model.kernels[name] in times_s
        assert {Full.name, Dense.name} <= times_s.keys() | ({Full.name} - {kind.name for kind in library()})
        assert all(took_s > 0 for times in times_s.values() for took_s in times.values())


def test_dense_weights_read_back_what_the_checkpoint_holds(half_model, half_base):
    """`weight` of a packed Linear, and a looked-up embedding, are the stored values in fp32."""
    net = net_of(half_base)
    for name, module in half_model.slots.linears.items():
        assert torch.equal(module.linear.weight, net.get_submodule(name).weight)
    table = half_model.net.get_input_embeddings()
    assert isinstance(table, WideEmbedding)
    assert table.weight.dtype == torch.bfloat16
    ids = torch.tensor([[3, 1, 200]])
    assert torch.equal(table(ids), net.get_input_embeddings()(ids))


@needs_half
def test_a_16_bit_checkpoint_takes_16_bits_a_weight(half_base):
    """No weight is held twice or in fp32, where FBGEMM is taken for all: the head is packed once more."""
    net = AutoModelForCausalLM.from_pretrained(half_base, dtype=torch.bfloat16)
    linears = sum(module.weight.numel() for module in net.modules() if isinstance(module, nn.Linear))
    fitted = fit(net, torch.float32, auto=True, deterministic=False)
    halves = [name for name, kernel in fitted.chosen.items() if kernel == Half.name]
    assert fitted.nbytes == 4 * linears - 2 * sum(net.get_submodule(name).weight.numel() for name in halves)
    left = [weight for weight in net.parameters() if weight.dim() > 1]
    assert [weight.dtype for weight in left] == [torch.bfloat16]


def test_a_constant_that_16_bits_would_round_is_read_in_fp32(tmp_path):
    """Gemma scales its embeddings by a number that no checkpoint holds: it is not rounded to bf16."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=64, hidden_size=48, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    Gemma3ForCausalLM(config).bfloat16().save_pretrained(tmp_path / "gemma")
    model = Model.load(str(tmp_path / "gemma"), device="cpu", dtype="auto", **SIZES)
    ids = torch.tensor([[1, 2]])
    assert torch.equal(
        model.net.get_input_embeddings()(ids), net_of(tmp_path / "gemma").get_input_embeddings()(ids)
    )


def test_torch_leaves_the_linears_as_they_are(world):
    """`kernels: torch` runs transformers' own Linears, on their own parameters."""
    model = Model.load(
        str(world.base), device="cpu", dtype="auto", kernels="torch", deterministic=True, **SIZES
    )
    assert {type(module.linear) for module in model.slots.linears.values()} <= {nn.Linear, CutLinear}
    assert set(model.kernels.values()) == {Dense.name}
    assert set(model.kernels) == set(model.slots.linears)


def test_without_any_kernel_that_keeps_bits_a_base_is_refused(world, monkeypatch):
    """Where the bits of a row depend on its place, `deterministic` is LM023 and says how to go on."""

    def uneven(x, weight, bias=None):
        return linear(x, weight, bias) + torch.arange(len(x))[:, None]

    monkeypatch.setattr("actors.lm.fit.torch_linear", uneven)
    with pytest.raises(UserError) as refused:
        fit(net_of(world.base), torch.float32, auto=False, deterministic=True)
    assert refused.value.code == "LM023"
    assert "deterministic: false" in refused.value.hint


@torch.inference_mode()
def test_linears_without_a_common_grain_are_cut(monkeypatch, world):
    """Where torch changes its kernel above 64 rows, its Linears run in counts below."""

    def changing(x, weight, bias=None):
        return linear(x, weight, bias) + (len(x) > 64)

    monkeypatch.setattr("actors.lm.fit.torch_linear", changing)
    net = net_of(world.base)
    fitted = fit(net, torch.float32, auto=False, deterministic=True)
    cut = [module for module in net.modules() if isinstance(module, CutLinear)]
    assert len(cut) == len(fitted.chosen)
    assert max(cut[0].cuts(512)) <= 64
    x = torch.randn(3, 64, cut[0].in_features)
    torch.testing.assert_close(cut[0](x), linear(x, cut[0].weight), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_peft_wraps_a_packed_tree(half_base):
    """LoRA on packed Linears, and copies of modules to save that can be changed, give PEFT's own logits."""
    config = LoraConfig(
        r=4, target_modules=["q_proj", "up_proj"], modules_to_save=["lm_head", "embed_tokens"]
    )
    packed = AutoModelForCausalLM.from_pretrained(half_base, dtype=torch.bfloat16)
    fit(packed, torch.float32, auto=True, deterministic=False)
    trees = []
    for net in (packed, net_of(half_base)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns of a tied head
            tree = get_peft_model(net, config).eval()
        generator = torch.Generator().manual_seed(3)
        for name, weight in tree.named_parameters():
            if ".lora_" in name or "modules_to_save" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
        trees.append(tree)
    ours, theirs = (tree(input_ids=torch.tensor([PROMPT])).logits for tree in trees)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert type(trees[0].base_model.model.lm_head.modules_to_save["default"]) is nn.Linear


def test_a_deep_copy_is_a_plain_linear_of_its_own():
    """The copy has the dense weight and the bias; a change of it changes nothing else."""
    plain = nn.Linear(16, 32)
    packed = PackedLinear(
        plain, Full.pack(plain.weight) if Full in library() else Dense.pack(plain.weight), Cuts()
    )
    twin = copy.deepcopy(packed)
    assert type(twin) is nn.Linear
    assert torch.equal(twin.weight, plain.weight)
    x = torch.randn(2, 16)
    before = packed(x)
    with torch.no_grad():
        twin.weight.zero_()
        twin.bias.zero_()
    assert torch.equal(packed(x), before)
    torch.testing.assert_close(before, plain(x))


@torch.inference_mode()
def test_companions_change_no_bit_of_a_packed_base(half_model):
    """The default engine of a bf16 checkpoint gives a row the same logits alone and among others."""
    half_model.forward([Part(0, PROMPT, 0, 20 * row, wanted=False) for row in range(7)])
    rows = [Part(0, [7 + row], len(PROMPT), 20 * row, wanted=True) for row in range(7)]
    together = half_model.forward(rows)
    for part, row in zip(rows, together, strict=True):
        assert torch.equal(half_model.forward([part])[0], row)


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
async def test_greedy_answers_equal_generate(world, half_base, stored):
    """The default engine answers as transformers' generate does on the checkpoint in fp32."""
    base = world.base if stored == "float32" else half_base
    ids = torch.tensor([PROMPT])
    wanted = (
        net_of(base)
        .generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=24,
            do_sample=False,
            pad_token_id=0,
        )[0, len(PROMPT) :]
        .tolist()
    )
    decoder = await asyncio.to_thread(Decoder.load, str(base), device="cpu", deterministic=True, **SIZES)
    try:
        request = Request("r", None, PROMPT, Sampling(temperature=0, max_tokens=24))
        got = [token async for delta in decoder.generate(request) for token in delta.tokens]
    finally:
        await asyncio.to_thread(decoder.stop)
    assert got == wanted
