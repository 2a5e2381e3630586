"""Make the lab's base checkpoint and its three LoRA adapters from plain text.

python examples/athens/train.py --texts DIR      # republic.txt and tinyshakespeare.txt
python examples/athens/train.py --evaluate       # the grid of perplexities
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from corpus import read_domains
from evaluate import ADAPTERS, BASE, HELDOUT, ROLES, grid_table, perplexity_grid, text_loss
from muon import Muon
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from rich.progress import Progress
from safetensors.torch import save_file
from samples import samples
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from windows import CONTEXT, VOCABULARY, Windows, make_windows, write_tokenizer

SEED = 7
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTER_LR = 2e-3
#: What an adapter's configuration calls the base; the path in this project.
BASE_NAME = "examples/athens/base"


@dataclass(frozen=True)
class Plan:
    """How long and how hard to train; the run ends at the first limit it meets."""

    steps: int
    minutes: float
    #: Tokens of one step.
    step_tokens: int
    #: Watched loss is measured each so many steps, and so many measures without a better one end the run.
    every: int
    patience: int
    #: torch.compile, and bfloat16 for the products of matrices
    compiled: bool
    autocast: bool


def learning_rate(progress: float) -> float:
    """The share of the full rate at a progress from 0 to 1: up, level, and down over the second half."""
    return min(1.0, progress / 0.03 + 0.02, max(0.02, (1 - progress) / 0.55))


def fit(
    model: torch.nn.Module,
    optimizers: list[torch.optim.Optimizer],
    windows: Windows,
    watch: dict[str, Tensor],
    plan: Plan,
    keep: Callable[[], None],
    *,
    best: float = float("inf"),
) -> float:
    """Train in place, call `keep` at each mean watched loss below `best`, and return the lowest."""
    trained: Callable[..., Any] = torch.compile(model, dynamic=False) if plan.compiled else model
    full_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    start, worse = time.monotonic(), 0
    with Progress() as bar:
        task = bar.add_task("training", total=1.0)
        for step in range(plan.steps):
            minutes = (time.monotonic() - start) / 60
            progress = min(1.0, max(step / plan.steps, minutes / plan.minutes))
            for optimizer, rates in zip(optimizers, full_rates, strict=True):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * learning_rate(progress)
            # The last quarter sees the whole context; half of it is enough, and cheaper, before.
            length = CONTEXT if progress > 0.75 else CONTEXT // 2
            batch = windows.batch(plan.step_tokens // length, length)
            loss = take_step(trained, optimizers, batch, autocast=plan.autocast)
            bar.update(task, completed=progress)
            last = step == plan.steps - 1 or progress >= 1.0
            if step % plan.every == plan.every - 1 or last:
                losses = {name: text_loss(model, tokens) for name, tokens in watch.items()}
                mean = sum(losses.values()) / len(losses)
                shown = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
                bar.console.print(
                    f"{minutes:5.1f} min  step {step + 1}  train {loss:.3f}  watched {mean:.3f}  {shown}"
                )
                worse = 0 if mean < best else worse + 1
                if mean < best:
                    best = mean
                    keep()
                if last or worse >= plan.patience:
                    break
    return best


def take_step(
    model: Callable[..., Any], optimizers: list[torch.optim.Optimizer], batch: Tensor, *, autocast: bool
) -> float:
    """One step on a batch of [rows, length]; return its loss."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
    loss.backward()
    trained = [
        tensor for optimizer in optimizers for group in optimizer.param_groups for tensor in group["params"]
    ]
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for optimizer in optimizers:
            optimizer.step()
    for optimizer in optimizers:
        optimizer.zero_grad()
    return float(loss.item())


def train_base(texts: Path, minutes: float, *, compiled: bool, autocast: bool) -> None:
    """Train the base from nothing on its share of the three texts and save it at its best."""
    torch.manual_seed(SEED)
    domains = read_domains(texts)
    HELDOUT.mkdir(exist_ok=True)
    for name, domain in domains.items():
        (HELDOUT / f"{name}.txt").write_text(domain.heldout + "\n", encoding="utf-8")
    seen = {name: domain.base_runs for name, domain in domains.items()}
    tokenizer = write_tokenizer(BASE, ["\n\n".join(run) for runs in seen.values() for run in runs])
    watch = {
        name: torch.tensor(tokenizer(domain.watch, verbose=False)["input_ids"])
        for name, domain in domains.items()
    }
    windows = make_windows(tokenizer, seen, chat_share=0.3, shortest_answer=5, seed=SEED)
    print({name: len(tokens) for name, tokens in windows.plain.items()}, "tokens of plain text")
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    inner = [name for name, tensor in model.named_parameters() if tensor.ndim == 2 and "embed" not in name]
    matrices = [tensor for name, tensor in model.named_parameters() if name in inner]
    others = [tensor for name, tensor in model.named_parameters() if name not in inner]
    optimizers = [
        Muon(matrices, lr=0.02),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.01, fused=True),
    ]
    plan = Plan(6_000, minutes, 2_048, every=100, patience=8, compiled=compiled, autocast=autocast)
    best = fit(model, optimizers, windows, watch, plan, keep=lambda: save_base(model))
    print(f"base: watched loss {best:.4f}")


def save_base(model: Qwen3ForCausalLM) -> None:
    """Save a bfloat16 copy with the defaults for generation."""
    saved = copy.deepcopy(model).bfloat16()
    saved.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True,
        temperature=0.7,
        top_p=0.9,
        max_new_tokens=160,
        eos_token_id=[model.config.eos_token_id, model.config.pad_token_id],
        pad_token_id=model.config.pad_token_id,
    )
    saved.save_pretrained(BASE)


def train_adapter(texts: Path, role: str, minutes: float, *, compiled: bool, autocast: bool) -> None:
    """Train the LoRA adapter of one role on all text of its domain and save it at its best."""
    torch.manual_seed(SEED)
    domain = read_domains(texts)[ROLES[role]]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(BASE)
    watch = {domain.name: torch.tensor(tokenizer(domain.watch, verbose=False)["input_ids"])}
    windows = make_windows(
        tokenizer,
        {domain.name: domain.runs},
        chat_share=0.2,
        shortest_answer=12,
        seed=SEED,
    )
    config = LoraConfig(
        r=8,
        lora_alpha=16,
        lora_dropout=0.0,
        target_modules=list(LINEARS),
        bias="none",
        task_type="CAUSAL_LM",
    )
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    before = text_loss(base, watch[domain.name])
    model = get_peft_model(base, config)
    trainable = [tensor for tensor in model.parameters() if tensor.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=ADAPTER_LR, betas=(0.9, 0.98), weight_decay=0.01)
    plan = Plan(2_000, minutes, 1_024, every=60, patience=6, compiled=compiled, autocast=autocast)
    best = fit(
        model,
        [optimizer],
        windows,
        watch,
        plan,
        keep=lambda: save_adapter(model, role),
        best=before,
    )
    print(f"{role}: watched loss {before:.4f} with the base, {best:.4f} with the adapter")


def save_adapter(model: PeftModel, role: str) -> None:
    """Save a bfloat16 copy of the adapter; its configuration names the base by its path in this project."""
    folder = ADAPTERS / role
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in get_peft_model_state_dict(model).items()
    }
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict()
    config |= {
        "base_model_name_or_path": BASE_NAME,
        "inference_mode": True,
        "target_modules": sorted(LINEARS),
    }
    text = json.dumps(config, indent=2, sort_keys=True, default=str)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line and do what it asks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=Path, help="folder of republic.txt and tinyshakespeare.txt")
    parser.add_argument("--only", choices=["base", *ROLES], help="make one of the four (all four)")
    parser.add_argument("--minutes", type=float, default=42.0, help="time for the base (42)")
    parser.add_argument("--adapter-minutes", type=float, default=7.0, help="time for each adapter (7)")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile: a quarter faster, needs a C++ compiler"
    )
    parser.add_argument(
        "--autocast", action="store_true", help="compute in bfloat16: faster where the processor has it"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of the processor (1)")
    parser.add_argument("--evaluate", action="store_true", help="print the held-out perplexities and samples")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.texts:
        if arguments.only in (None, "base"):
            train_base(
                arguments.texts, arguments.minutes, compiled=arguments.compile, autocast=arguments.autocast
            )
        for role in ROLES:
            if arguments.only in (None, role):
                train_adapter(
                    arguments.texts,
                    role,
                    arguments.adapter_minutes,
                    compiled=arguments.compile,
                    autocast=arguments.autocast,
                )
    elif not arguments.evaluate:
        parser.error("give --texts DIR to train, --evaluate to measure, or both")
    if arguments.evaluate:
        print(grid_table(perplexity_grid()), end="\n\n")
        print(samples())


if __name__ == "__main__":
    main()
