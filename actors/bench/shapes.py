"""The models and adapters that the benches run on: random, made here, kept in a folder for the next run."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PretrainedConfig

#: Part of each made folder's name: what was made by other rules is not taken for this.
EDITION = 1
EOS = 0
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TEMPLATE = (
    "{%- for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ 'assistant:' }}{%- endif %}"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen3-shaped model, and how much of it a bench uses: `kv_nbytes` hold what it asks at once."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocab: int
    dtype: str
    context: int
    rank: int
    kv_nbytes: int
    #: decode steps that one timed block has
    steps: int
    #: decode steps over which gaps are watched
    watch: int
    prompt: int
    answer: int
    #: tokens of the long prompt, and of a persona
    long_prompt: int
    persona: int
    #: how many small adapters are registered at once
    crowd: int

    def config(self) -> PretrainedConfig:
        from transformers import Qwen3Config

        return Qwen3Config(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_size,
            max_position_embeddings=self.context,
            tie_word_embeddings=True,
            eos_token_id=EOS,
            bos_token_id=None,
            pad_token_id=EOS,
        )

    def linears(self) -> dict[str, tuple[int, int]]:
        """Return (out, in) of each target in a layer."""
        query, key = self.heads * self.head_size, self.kv_heads * self.head_size
        return {
            "self_attn.q_proj": (query, self.hidden),
            "self_attn.k_proj": (key, self.hidden),
            "self_attn.v_proj": (key, self.hidden),
            "self_attn.o_proj": (self.hidden, query),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }


def _shape(name: str, sizes: tuple[int, ...], dtype: str, **use: int) -> Shape:
    layers, hidden, heads, kv_heads, head_size, intermediate, vocab = sizes
    usual = {
        "context": 8192, "rank": 16, "kv_nbytes": 1 << 30, "steps": 40, "watch": 150, "prompt": 64,
        "answer": 32, "long_prompt": 4096, "persona": 256, "crowd": 1000,
    }  # fmt: skip
    return Shape(
        name, layers, hidden, heads, kv_heads, head_size, intermediate, vocab, dtype, **(usual | use)
    )


S = _shape("S", (12, 512, 8, 4, 64, 1536, 32_000), "float32")
#: the geometry of Qwen3-0.6B
M = _shape("M", (28, 1024, 16, 8, 128, 3072, 32_000), "bfloat16", kv_nbytes=3 << 30, steps=12, watch=60)
#: nothing but the loop around the model
TOY = _shape("TOY", (2, 512, 8, 4, 64, 1536, 32_000), "float32", steps=60)
#: for tests
T = _shape(
    "T", (2, 64, 4, 2, 16, 96, 512), "float32", context=1024, rank=4, kv_nbytes=8 << 20, steps=4, watch=8,
    prompt=8, answer=4, long_prompt=192, persona=130, crowd=12,
)  # fmt: skip
SHAPES = {shape.name: shape for shape in (S, M, TOY, T)}


@dataclass(frozen=True, slots=True)
class Made:
    """A shape on disk: the checkpoint's directory, and those of its adapters."""

    shape: Shape
    base: str
    adapters: tuple[str, ...]


def default_cache() -> Path:
    """Return the folder for what is made: in the user's cache, else in the system's temporary one."""
    root = os.environ.get("XDG_CACHE_HOME")
    parent = Path(root) if root else Path.home() / ".cache"
    usable = os.access(parent if parent.is_dir() else parent.parent, os.W_OK)
    return (parent if usable else Path(tempfile.gettempdir())) / "tierce-bench"


def make(shape: Shape, cache: Path, adapters: int = 8) -> Made:
    """Return the checkpoint of `shape` and `adapters` adapters of it, made unless they are in `cache`."""
    root = cache / f"{shape.name}-{EDITION}"
    base = _once(root / "base", lambda path: write_base(shape, path))
    made = [
        _once(
            root / f"adapter{seed}",
            lambda path, seed=seed: write_adapter(shape, path, seed, shape.rank, TARGETS),
        )
        for seed in range(adapters)
    ]
    return Made(shape, str(base), tuple(map(str, made)))


def write_base(shape: Shape, path: Path) -> None:
    """Save a random checkpoint with its tokenizer; no greedy answer of it ever ends by itself."""
    import torch
    from transformers import AutoModelForCausalLM

    from actors.bench.baselines import quiet

    torch.manual_seed(7)
    make: Any = AutoModelForCausalLM.from_config
    net = make(shape.config(), dtype=getattr(torch, shape.dtype))
    with torch.no_grad():
        # A zero row gives the end token the logit 0, and among so many others one is always above it.
        net.get_input_embeddings().weight[EOS] = 0
    with quiet():
        net.save_pretrained(path)
    write_tokenizer(path)


def write_tokenizer(path: Path) -> None:
    """Save a byte-level tokenizer with the end token EOS; ids above its bytes have no text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<|endoftext|>": EOS} | {letter: 1 + at for at, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(path / "tokenizer.json"))
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "chat_template": TEMPLATE,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(told))


def write_adapter(
    shape: Shape, path: Path, seed: int, rank: int, targets: Sequence[str], dtype: str = "float32"
) -> None:
    """Save a random LoRA as PEFT would; both matrices are filled, so that it changes every answer."""
    import torch
    from safetensors.torch import save_file

    path.mkdir(parents=True, exist_ok=True)
    dice = torch.Generator().manual_seed(1000 + seed)
    kind = getattr(torch, dtype)

    def matrix(rows: int, columns: int) -> Tensor:
        drawn: Tensor = torch.randn(rows, columns, generator=dice) * columns**-0.5
        return drawn.to(kind)

    tensors = {}
    for layer in range(shape.layers):
        for name, (out_features, in_features) in shape.linears().items():
            if name.rpartition(".")[2] in targets:
                key = f"base_model.model.model.layers.{layer}.{name}"
                tensors[f"{key}.lora_A.weight"] = matrix(rank, in_features)
                tensors[f"{key}.lora_B.weight"] = matrix(out_features, rank)
    save_file(tensors, path / "adapter_model.safetensors")
    config: dict[str, Any] = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "lora_dropout": 0.0,
        "bias": "none", "target_modules": sorted(targets), "inference_mode": True,
    }  # fmt: skip
    (path / "adapter_config.json").write_text(json.dumps(config, indent=2))


def prompt(shape: Shape, length: int, seed: int) -> list[int]:
    """Return `length` random tokens of printable ASCII, so that they are also a text of as many tokens."""
    from random import Random

    letters = [1 + at for at, letter in enumerate(_alphabet()) if letter.isascii() and letter.isalpha()]
    dice = Random(seed)  # noqa: S311 -- it repeats, and guards no secret
    return [dice.choice(letters) for _ in range(min(length, shape.context))]


def text_of(tokens: Sequence[int]) -> str:
    """Return the text of tokens that `prompt` made."""
    alphabet = _alphabet()
    return "".join(alphabet[token - 1] for token in tokens)


def _alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _once(path: Path, write: Any) -> Path:
    """Make `path` by `write(folder)`, whole or not at all, unless it is there."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        begun = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            write(begun)
            begun.replace(path)
        finally:
            shutil.rmtree(begun, ignore_errors=True)
    return path
