"""What serves an adapter: a slot, which is fast; a shadow, which is PEFT's own layers; or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.lm.header import AdapterError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Fields of a LoRA that say where, or how far, it was trained, or what a slot gives exactly.
SLOT_FIELDS = frozenset({
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "bias",
    "use_rslora", "use_dora", "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern",
    "alpha_pattern", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "qalora_group_size", "runtime_config", "ensure_weight_tying",
})  # fmt: skip
#: Fields of a LoRA that PEFT serves on a tree of its own, and what people call them.
SHADOW_FIELDS = {
    "modules_to_save": "modules_to_save",
    "trainable_token_indices": "trainable tokens",
    "lora_bias": "biases in LoRA",
    "target_parameters": "target_parameters",
    "velora_config": "VeLoRA",
    "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "use_qalora": "QALoRA",
}
#: Why a field cannot be served at all.
REFUSED_FIELDS = {
    "alora_invocation_tokens": "aLoRA begins in the middle of a prompt, at a place that a packed batch lacks",
    "arrow_config": "Arrow routes between several adapters",
    "layer_replication": "it changes the base's layers",
    "megatron_config": "it needs Megatron's layers",
    "fan_in_fan_out": "its matrices are transposed",
}
#: Other sorts of PEFT that change layers one by one, each token for itself.
SHADOW_TYPES = frozenset({
    "ADALORA", "ADAMSS", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA", "GRALORA",
    "HIRA", "HRA", "IA3", "LILY", "LN_TUNING", "LOHA", "LOKR", "MISS", "OFT", "OSF", "PEANUT", "PSOFT",
    "PVERA", "RANDLORA", "ROAD", "SHIRA", "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA",
    "VERA", "WAVEFT",
})  # fmt: skip
#: Sorts that put tokens, keys or values of their own before a prompt: they would change cache and positions.
PROMPT_TYPES = frozenset({
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE",
    "ADAPTION_PROMPT",
})  # fmt: skip
#: Initialisations that change the base too: their adapters are only right on that changed base.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
UNSET: tuple[object, ...] = (None, False, "", [], {})


def verdict(fields: Mapping[str, object], name: str) -> str:
    """Return what in a config called `name` needs a shadow; "" if a slot gives exactly what PEFT gives.

    Raises AdapterError ADP023 for what neither serves, with the field and the reason.
    """
    kind = fields.get("peft_type", "LORA")
    if kind in PROMPT_TYPES:
        told = f"peft_type {kind} is not supported: it changes the prompt's keys and values"
        raise AdapterError("ADP023", f"{name}: {told}", "train a LoRA")
    if kind != "LORA" and kind not in SHADOW_TYPES:
        raise AdapterError("ADP023", f"{name}: peft_type {kind} is not supported", "train a LoRA")
    if fields.get("task_type") not in {None, "CAUSAL_LM"}:
        told = f"task_type {fields['task_type']} is not supported, only CAUSAL_LM"
        raise AdapterError("ADP023", f"{name}: {told}", "is it an adapter for text generation?")
    return str(kind) if kind != "LORA" else _of_lora(fields, name)


def _of_lora(fields: Mapping[str, object], name: str) -> str:
    start = fields.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        hint = "save it with path_initial_model_for_weight_conversion"
        raise AdapterError("ADP023", f"{name}: init_lora_weights={start!r} belongs to a changed base", hint)
    why = [f"bias={fields['bias']}"] if fields.get("bias", "none") != "none" else []
    for field, value in fields.items():
        if field in SLOT_FIELDS or value in UNSET:
            continue
        if field not in SHADOW_FIELDS:
            reason = REFUSED_FIELDS.get(field, "no such feature is known")
            raise AdapterError("ADP023", f"{name}: {field}={value!r} is not supported: {reason}")
        why.append(SHADOW_FIELDS[field])
    return ", ".join(why)
