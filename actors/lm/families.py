"""Which families of models can be packed: what is refused by name, and what each attention layer keeps."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from actors.lm.attention import reading
from actors.lm.rows import LayerShape
from placement.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

    from actors.lm.attention import Form

#: Kinds of layers whose state is their keys and values; transformers' names.
PACKED = {"full_attention", "sliding_attention", None}
SURVEYED = 2


def refuse_family(config: PretrainedConfig) -> None:
    """Raise UserError LM010 with the family and the reason if its config says that it cannot be packed."""
    why = _why_not(config.get_text_config())
    if why is not None:
        raise _refusal(config, why)


def _why_not(config: PretrainedConfig) -> str | None:
    if config.is_encoder_decoder:
        return "it is an encoder-decoder"
    net = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if net is not None and getattr(net, "_is_stateful", False):
        return "it keeps a state besides keys and values (a state space or linear attention)"
    if others := sorted(set(getattr(config, "layer_types", None) or ()) - PACKED):
        return f"it has layers of {', '.join(others)}"
    # Attention that transformers does not let others take over: ALiBi and the oldest families.
    if net is not None and not hasattr(sys.modules[net.__module__], "ALL_ATTENTION_FUNCTIONS"):
        return "its attention is built into its layers" + (" (ALiBi)" if _alibi(config) else "")
    return None


def _alibi(config: PretrainedConfig) -> bool:
    return bool(getattr(config, "alibi", config.model_type in {"bloom", "mpt"}))


class _Survey:
    """Hears what each attention layer would keep; attends to nothing."""

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}
        self.windows: set[int] = set()
        self.both_ways = False

    def read(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, form: Form) -> Tensor:
        index: int = module.layer_idx  # type: ignore[assignment]
        self.shapes[index] = LayerShape(key.shape[1], key.shape[3], value.shape[3])
        self.both_ways |= not getattr(module, "is_causal", True)
        if form.window is not None:
            self.windows.add(index)
        return query.new_zeros((1, query.shape[2], query.shape[1], value.shape[3]))


@torch.inference_mode()
def survey(net: nn.Module, config: PretrainedConfig) -> list[LayerShape]:
    """Return what each layer of a loaded model keeps of a token.

    Raises UserError LM010 with the family and the reason if some layer keeps nothing, or attends otherwise
    than the config says.
    """
    heard, text = _Survey(), config.get_text_config()
    device = next(net.parameters()).device
    ids = torch.arange(SURVEYED, device=device)[None]
    try:
        with reading(heard):
            net(input_ids=ids, position_ids=ids, use_cache=False, logits_to_keep=1)
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:
        raise _refusal(config, f"it does not run packed: {error}") from error
    if sorted(heard.shapes) != list(range(text.num_hidden_layers)):
        told = f"{len(heard.shapes)} of {text.num_hidden_layers} layers keep keys and values"
        raise _refusal(config, told)
    if heard.both_ways:
        raise _refusal(config, "its tokens see those behind them")
    kinds = getattr(text, "layer_types", None)
    window = getattr(text, "sliding_window", None)
    sliding = [kind == "sliding_attention" for kind in kinds or ()] or [bool(window)] * len(heard.shapes)
    if any(due and index not in heard.windows for index, due in enumerate(sliding)):
        raise _refusal(config, "its layers do not tell their sliding window")
    return [heard.shapes[index] for index in sorted(heard.shapes)]


def _refusal(config: PretrainedConfig, why: str) -> UserError:
    return UserError("LM010", f"models of the family {config.model_type} are not served: {why}")
