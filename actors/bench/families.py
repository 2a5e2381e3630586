"""Tiny random models of many families: served packed, served by an eager branch, or refused."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VOCAB, WINDOW = 97, 12
SIZES: dict[str, Any] = {
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
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
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
OLD: dict[str, Any] = {
    "vocab_size": VOCAB, "bos_token_id": None, "eos_token_id": None, "tie_word_embeddings": False,
}  # fmt: skip
GPT = {**OLD, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
MIXED = {"layer_types": ["linear_attention", "full_attention"]}


def _made(kind: str, **fields: Any) -> Callable[[], Any]:
    """Return what makes the config called `kind` in transformers, when it is needed."""
    return lambda: getattr(import_module("transformers"), f"{kind}Config")(**fields)


PACKED: dict[str, Callable[[], Any]] = {
    "llama": _made("Llama", **SIZES),
    "qwen2": _made("Qwen2", **SIZES),
    "qwen3": _made("Qwen3", **HEADS),
    "qwen3_moe": _made("Qwen3Moe", **HEADS, **EXPERTS, num_experts=4),
    "mistral": _made("Mistral", **SIZES, sliding_window=WINDOW),
    "mixtral": _made("Mixtral", **SIZES, num_local_experts=4, num_experts_per_tok=2),
    "gemma": _made("Gemma", **HEADS),
    "gemma3_text": _made("Gemma3Text", **BOTH, query_pre_attn_scalar=16),
    "phi": _made("Phi", **SIZES),
    "phi3": _made("Phi3", **SIZES, sliding_window=WINDOW),
    "olmo": _made("Olmo", **SIZES),
    "olmo2": _made("Olmo2", **SIZES),
    "gpt_neox": _made("GPTNeoX", **SIZES),
    "gpt2": _made("GPT2", **GPT),
    "granite": _made("Granite", **SIZES),
    "cohere": _made("Cohere", **SIZES),
    "cohere2": _made("Cohere2", **BOTH),
    "starcoder2": _made("Starcoder2", **SIZES, sliding_window=WINDOW),
    "smollm3": _made("SmolLM3", **SIZES, no_rope_layers=[1, 0]),
    "stablelm": _made("StableLm", **SIZES),
    "glm4": _made("Glm4", **HEADS),
    "exaone4": _made("Exaone4", **BOTH),
    "nemotron": _made("Nemotron", **HEADS),
    "deepseek_v3": _made("DeepseekV3", **LATENT),
}
EAGER: dict[str, Callable[[], Any]] = {
    "gemma2": _made("Gemma2", **BOTH, query_pre_attn_scalar=16, attn_logit_softcapping=2.0),
    "gpt_oss": _made("GptOss", **BOTH, num_local_experts=4, num_experts_per_tok=2),
}
#: The config and what the error tells.
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "falcon": (
        _made("Falcon", **OLD, hidden_size=64, num_hidden_layers=2, num_attention_heads=4),
        "attention is built into its layers",
    ),
    "bloom": (_made("Bloom", **OLD, hidden_size=64, n_layer=2, n_head=4), "ALiBi"),
    "mpt": (_made("Mpt", **OLD, d_model=64, n_layers=2, n_heads=4), "ALiBi"),
    "gptj": (_made("GPTJ", **GPT, rotary_dim=8), "attention is built into its layers"),
    "mamba": (_made("Mamba", **OLD, hidden_size=64, num_hidden_layers=2), "state"),
    "falcon_mamba": (_made("FalconMamba", **OLD, hidden_size=64, num_hidden_layers=2), "state"),
    "qwen3_next": (_made("Qwen3Next", **HEADS, **EXPERTS, num_experts=4, **MIXED), "state"),
    "falcon_h1": (_made("FalconH1", **SIZES), "state"),
    "lfm2": (_made("Lfm2", **SIZES, layer_types=["conv", "full_attention"]), "conv"),
    "llama4_text": (
        _made("Llama4Text", **HEADS, layer_types=["chunked_attention", "full_attention"]),
        "chunked_attention",
    ),
    "t5": (_made("T5", **OLD, d_model=64, num_layers=2, num_heads=4), "encoder-decoder"),
}
EVERY = {
    **{name: (make, "packed") for name, make in PACKED.items()},
    **{name: (make, "eager") for name, make in EAGER.items()},
    **{name: (make, "refused") for name, (make, _) in REFUSED.items()},
}


def write(path: Path, config: Any) -> None:
    """Save a random model, in fp32, whose weights are large enough to have opinions."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    config.initializer_range = 0.15
    make: Any = AutoModelForCausalLM.from_config
    net = make(config, dtype=torch.float32)
    for name, weight in net.named_parameters():
        if name.endswith("sinks"):
            torch.nn.init.normal_(weight)
    net.save_pretrained(path)
