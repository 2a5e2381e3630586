"""Held-out perplexity of the base and the three adapters on the three domains."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

HERE = Path(__file__).resolve().parent
BASE = HERE / "base"
ADAPTERS = HERE / "adapters"
HELDOUT = HERE / "heldout"
DOMAINS = ("dialogues", "python", "plays")
#: Which domain each adapter is made for.
ROLES = {"philosopher": "dialogues", "coder": "python", "artist": "plays"}

Grid = dict[str, dict[str, float]]


@torch.no_grad()
def text_loss(model: torch.nn.Module, tokens: Tensor, length: int = 512, stride: int = 512) -> float:
    """Mean loss per token over windows of `length`, one at each `stride`; `tokens` is [tokens].

    Each window is read without what stands before it, so its first tokens are the hard ones.
    """
    total, count = 0.0, 0
    for start in range(0, len(tokens) - 1, stride):
        window = tokens[start : start + length + 1][None]  # [1, at most length + 1]
        logits = model(input_ids=window[:, :-1], use_cache=False).logits[0]  # [window - 1, vocabulary]
        total += torch.nn.functional.cross_entropy(logits.float(), window[0, 1:], reduction="sum").item()
        count += window.size(1) - 1
    return total / count


def read_heldout(tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    """The committed held-out text of each domain as [tokens]."""
    texts = {domain: (HELDOUT / f"{domain}.txt").read_text(encoding="utf-8") for domain in DOMAINS}
    return {
        domain: torch.tensor(tokenizer(text, verbose=False)["input_ids"]) for domain, text in texts.items()
    }


def load_models() -> tuple[PreTrainedTokenizerBase, dict[str, Any]]:
    """The tokenizer, and the base and each adapter on it as a model in float32."""
    loaded: dict[str, Any] = {"base": AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)}
    for role in ROLES:
        base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
        loaded[role] = PeftModel.from_pretrained(base, ADAPTERS / role)  # both in evaluation mode
    return AutoTokenizer.from_pretrained(BASE), loaded


def perplexity_grid(stride: int = 512) -> Grid:
    """Held-out perplexity by model and domain; a stride above 512 leaves text out and saves time."""
    tokenizer, loaded = load_models()
    heldout = read_heldout(tokenizer)
    return {
        name: {
            domain: math.exp(text_loss(model, tokens, stride=stride)) for domain, tokens in heldout.items()
        }
        for name, model in loaded.items()
    }


def grid_table(grid: Grid) -> str:
    """The grid as a Markdown table, with how far each adapter is below the base on its own domain."""
    lines = ["| model | " + " | ".join(DOMAINS) + " | own domain against the base |", "|---|---|---|---|---|"]
    for name, row in grid.items():
        cells = []
        for domain in DOMAINS:
            own = ROLES.get(name) == domain
            cells.append(f"**{row[domain]:.2f}**" if own else f"{row[domain]:.2f}")
        gain = f"{row[ROLES[name]] / grid['base'][ROLES[name]] - 1:+.1%}" if name in ROLES else ""
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {gain} |")
    return "\n".join(lines)
