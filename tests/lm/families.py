"""Tiny random models of many families, greedy decoding through `Model`, and a table of what is served how.

`python -m tests.lm.families` prints the table as markdown.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers as tf
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from actors.lm.model import Model, Part
from placement.errors import UserError

VOCAB, WINDOW = 97, 12
TOKENS = 16
ROOM = 64  # rows of one sequence
#: Longer than the window, read in two chunks; a row at once; a chunk and a lone last token.
PROMPTS = [
    [(index * 7) % 90 + 5 for index in range(30)],
    [61],
    [(index * 11 + 3) % 90 + 5 for index in range(17)],
]
CHUNK = 16

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
HEADS = {**SIZES, "head_dim": 16}
BOTH = {**HEADS, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {
    **SIZES,
    **EXPERTS,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
OLD = {"vocab_size": VOCAB, "bos_token_id": None, "eos_token_id": None, "tie_word_embeddings": False}
GPT = {**OLD, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}

PACKED: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: tf.LlamaConfig(**SIZES),
    "qwen2": lambda: tf.Qwen2Config(**SIZES),
    "qwen3": lambda: tf.Qwen3Config(**HEADS),
    "qwen3_moe": lambda: tf.Qwen3MoeConfig(**HEADS, **EXPERTS, num_experts=4),
    "mistral": lambda: tf.MistralConfig(**SIZES, sliding_window=WINDOW),
    "mixtral": lambda: tf.MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
    "gemma": lambda: tf.GemmaConfig(**HEADS),
    "gemma3_text": lambda: tf.Gemma3TextConfig(**BOTH, query_pre_attn_scalar=16),
    "phi": lambda: tf.PhiConfig(**SIZES),
    "phi3": lambda: tf.Phi3Config(**SIZES, sliding_window=WINDOW),
    "olmo": lambda: tf.OlmoConfig(**SIZES),
    "olmo2": lambda: tf.Olmo2Config(**SIZES),
    "gpt_neox": lambda: tf.GPTNeoXConfig(**SIZES),
    "gpt2": lambda: tf.GPT2Config(**GPT),
    "granite": lambda: tf.GraniteConfig(**SIZES),
    "cohere": lambda: tf.CohereConfig(**SIZES),
    "cohere2": lambda: tf.Cohere2Config(**BOTH),
    "starcoder2": lambda: tf.Starcoder2Config(**SIZES, sliding_window=WINDOW),
    "smollm3": lambda: tf.SmolLM3Config(**SIZES, no_rope_layers=[1, 0]),
    "stablelm": lambda: tf.StableLmConfig(**SIZES),
    "glm4": lambda: tf.Glm4Config(**HEADS),
    "exaone4": lambda: tf.Exaone4Config(**BOTH),
    "nemotron": lambda: tf.NemotronConfig(**HEADS),
    "deepseek_v3": lambda: tf.DeepseekV3Config(**LATENT),
}
EAGER: dict[str, Callable[[], PreTrainedConfig]] = {
    "gemma2": lambda: tf.Gemma2Config(**BOTH, query_pre_attn_scalar=16, attn_logit_softcapping=2.0),
    "gpt_oss": lambda: tf.GptOssConfig(**BOTH, num_local_experts=4, num_experts_per_tok=2),
}
#: The config and what the error tells.
REFUSED: dict[str, tuple[Callable[[], PreTrainedConfig], str]] = {
    "falcon": (
        lambda: tf.FalconConfig(**OLD, hidden_size=64, num_hidden_layers=2, num_attention_heads=4),
        "attention is built into its layers",
    ),
    "bloom": (lambda: tf.BloomConfig(**OLD, hidden_size=64, n_layer=2, n_head=4), "ALiBi"),
    "mpt": (lambda: tf.MptConfig(**OLD, d_model=64, n_layers=2, n_heads=4), "ALiBi"),
    "gptj": (lambda: tf.GPTJConfig(**GPT, rotary_dim=8), "attention is built into its layers"),
    "mamba": (lambda: tf.MambaConfig(**OLD, hidden_size=64, num_hidden_layers=2), "state"),
    "falcon_mamba": (lambda: tf.FalconMambaConfig(**OLD, hidden_size=64, num_hidden_layers=2), "state"),
    "qwen3_next": (
        lambda: tf.Qwen3NextConfig(
            **HEADS, **EXPERTS, num_experts=4, layer_types=["linear_attention", "full_attention"]
        ),
        "state",
    ),
    "falcon_h1": (lambda: tf.FalconH1Config(**SIZES), "state"),
    "lfm2": (lambda: tf.Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]), "conv"),
    "llama4_text": (
        lambda: tf.Llama4TextConfig(**HEADS, layer_types=["chunked_attention", "full_attention"]),
        "chunked_attention",
    ),
    "t5": (lambda: tf.T5Config(**OLD, d_model=64, num_layers=2, num_heads=4), "encoder-decoder"),
}


@dataclass(frozen=True)
class Family:
    """A random model on disk, as transformers loads it and as the engine does, with two slots."""

    name: str
    path: Path
    theirs: PreTrainedModel
    ours: Model

    @property
    def linears(self) -> list[str]:
        """Linears of the layers, to be adapted; PEFT takes `mlp` ones of DeepSeek for its fused experts."""
        return [
            name
            for name, module in self.theirs.named_modules()
            if isinstance(module, torch.nn.Linear)
            and ".layers." in name
            and not (self.name == "deepseek_v3" and ".mlp." in name)
        ]


def write(path: Path, config: PreTrainedConfig) -> None:
    """Save a random model whose weights are large enough to have opinions."""
    torch.manual_seed(5)
    config.initializer_range = 0.15
    net = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, weight in net.named_parameters():
        if name.endswith("sinks"):
            torch.nn.init.normal_(weight)
    net.save_pretrained(path)


def load(path: Path, name: str) -> Family:
    """Load what `write` saved, twice."""
    ours = Model.load(
        str(path), device="cpu", dtype="float32", slots=2, max_rank=4, kv_nbytes=1 << 20, deterministic=True
    )
    theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return Family(name, path, theirs, ours)


def generate(net: torch.nn.Module, prompt: list[int]) -> list[int]:
    """Return what transformers' own generate answers."""
    ids = torch.tensor([prompt])
    out = net.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=TOKENS,
        do_sample=False,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


@torch.inference_mode()
def answer(model: Model, prompts: Sequence[list[int]], slots: Sequence[int]) -> list[list[int]]:
    """Decode all prompts in one batch, each read in chunks of CHUNK and in rows of its own."""
    read = [0] * len(prompts)
    known = [list(prompt) for prompt in prompts]
    goals = [len(prompt) + TOKENS for prompt in prompts]
    while any(len(tokens) < goal for tokens, goal in zip(known, goals, strict=True)):
        parts, whose = [], []
        for index, tokens in enumerate(known):
            if len(tokens) < goals[index]:
                new = tokens[read[index] : read[index] + CHUNK]
                done = read[index] + len(new) == len(tokens)
                parts.append(Part(slots[index], new, read[index], index * ROOM, wanted=done))
                read[index] += len(new)
                whose.extend([index] if done else [])
        if not whose:
            model.forward(parts)
            continue
        for index, token in zip(whose, model.forward(parts).argmax(-1).tolist(), strict=True):
            known[index].append(token)
    return [tokens[len(prompt) :] for tokens, prompt in zip(known, prompts, strict=True)]


def table() -> list[str]:
    """Return the lines of a markdown table: family, how it is served, whether its tokens equal generate's."""
    lines = ["| family | served | tokens equal |", "|---|---|---|"]
    kinds = [
        *((name, make, "packed") for name, make in PACKED.items()),
        *((name, make, "eager") for name, make in EAGER.items()),
        *((name, make, "refused") for name, (make, _) in REFUSED.items()),
    ]
    for name, make, how in sorted(kinds):
        with tempfile.TemporaryDirectory() as folder:
            try:
                if how == "refused":
                    make().save_pretrained(folder)
                else:
                    write(Path(folder), make())
                family = load(Path(folder), name)
            except UserError as error:
                lines.append(f"| {name} | refused: {error.message.partition('served: ')[2]} | - |")
                continue
            expected = [generate(family.theirs, prompt) for prompt in PROMPTS]
            alone = [answer(family.ours, [prompt], [0])[0] for prompt in PROMPTS]
            same = alone == expected == answer(family.ours, PROMPTS, [0] * len(PROMPTS))
            lines.append(f"| {name} | {how} | {'yes' if same else 'NO'} |")
    return lines


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    sys.stdout.write("\n".join(table()) + "\n")
