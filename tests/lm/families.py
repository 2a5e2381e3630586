"""A family of models as the engine has it and as transformers does, and greedy decoding through `Model`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from actors.lm.model import Model, Part

TOKENS = 16
ROOM = 64  # rows of one sequence
#: Longer than the window, read in two chunks; a row at once; a chunk and a lone last token.
PROMPTS = [
    [(index * 7) % 90 + 5 for index in range(30)],
    [61],
    [(index * 11 + 3) % 90 + 5 for index in range(17)],
]
CHUNK = 16


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
