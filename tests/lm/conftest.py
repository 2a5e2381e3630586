"""Tiny random models, PEFT adapters for them, and a tokenizer with a chat template; all made here."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from actors.lm.decoder import Decoder
from actors.lm.prepare import prepare

TEXT = "the unexamined life is not worth living, said Socrates; courage, wisdom. naïve café 日本語 λόγος 🏛️"
TEMPLATE = """{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('unknown role ' + message.role) }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' + message.content | trim + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}"""
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
KINDS = {
    "qwen3": lambda **sizes: Qwen3Config(head_dim=16, tie_word_embeddings=True, **sizes),
    "llama": LlamaConfig,
    "qwen2": lambda **sizes: Qwen2Config(tie_word_embeddings=True, **sizes),
    "mistral": lambda **sizes: MistralConfig(sliding_window=12, **sizes),
}
LORAS = {
    "plain": {"r": 8, "lora_alpha": 11, "target_modules": ALL_LINEAR},
    "rslora": {"r": 4, "lora_alpha": 7, "use_rslora": True, "target_modules": ALL_LINEAR},
    "patterns": {
        "r": 8,
        "lora_alpha": 16,
        "target_modules": ALL_LINEAR,
        "rank_pattern": {"q_proj": 3, r"layers\.1\.mlp\.up_proj": 5},
        "alpha_pattern": {"v_proj": 3, "model.layers.0.mlp.down_proj": 40},
    },
    "subset": {
        "r": 2,
        "lora_alpha": 9,
        "target_modules": r".*\.layers\.1\.(self_attn\.v_proj|mlp\.gate_proj)",
    },
    "head": {"r": 2, "lora_alpha": 5, "target_modules": ["q_proj", "lm_head"]},
}


@dataclass(frozen=True)
class World:
    """A base model and its adapters on disk, by name."""

    base: Path
    adapters: dict[str, Path]

    def peft(self, name: str, dtype: torch.dtype = torch.float32) -> PeftModel:
        """Load the adapter as PEFT does, alone."""
        base = AutoModelForCausalLM.from_pretrained(self.base, dtype=dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns of adapters on a tied head
            return PeftModel.from_pretrained(base, self.adapters[name]).eval()

    def greedy(self, name: str | None, prompt: list[int], count: int) -> list[int]:
        """Return what PEFT's own generate continues `prompt` with; the base alone if `name` is None."""
        model = (
            self.peft(name) if name else AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32)
        )
        ids = torch.tensor([prompt])
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )
        return out[0, len(prompt) :].tolist()


def write_tokenizer(path: Path) -> int:
    """Save a byte-level tokenizer with a chat template in `path` and return its size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(path)
    return len(fast)


def write_base(path: Path, kind: str) -> None:
    """Save a random model of `kind` with its tokenizer; its weights are large enough to have opinions."""
    vocab = write_tokenizer(path)
    torch.manual_seed(7)
    config = KINDS[kind](vocab_size=vocab, eos_token_id=2, bos_token_id=None, pad_token_id=0, **SIZES)
    config.initializer_range = 0.15
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(path)


def write_adapter(base: Path, path: Path, *, seed: int = 1, **config: object) -> None:
    """Save a random LoRA, as PEFT saves it; unlike an untrained one it changes every answer."""
    torch.manual_seed(seed)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(**config)
    )
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(weight, std=0.25)
    model.save_pretrained(path)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_world(tmp_path_factory):
    """Build a World of one kind of model with the named adapters."""

    def make(kind: str, *names: str) -> World:
        root = tmp_path_factory.mktemp(kind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write_base(root / "base", kind)
            for seed, name in enumerate(names):
                write_adapter(root / "base", root / name, seed=seed, **LORAS[name])
        return World(root / "base", {name: root / name for name in names})

    return make


@pytest.fixture(scope="session")
def world(make_world) -> World:
    """A tiny Qwen3 with one adapter of each sort."""
    return make_world("qwen3", *LORAS)


@pytest.fixture(scope="session")
def images(world):
    """The prepared image of each adapter, by name."""
    return {name: prepare(str(path), str(world.base), 16).image for name, path in world.adapters.items()}


@pytest.fixture
def damaged(world, tmp_path) -> Path:
    """A copy of the plain adapter, to be broken by a test."""
    return Path(shutil.copytree(world.adapters["plain"], tmp_path / "damaged"))


@pytest.fixture(scope="session")
def shared(world):
    """A decoder for the whole session; a test leaves it as it found it."""
    decoder = Decoder.load(str(world.base), device="cpu", slots=4, max_rank=16, kv_nbytes=4 << 20)
    yield decoder
    decoder.stop()


@pytest.fixture
def decoder(shared):
    """The session's decoder with nothing attached."""
    yield shared
    for item in shared.attached():
        shared.detach(item)
