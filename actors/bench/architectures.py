"""Architectures: which families the packed forward serves, and whether greedy tokens equal `generate`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from actors.bench import baselines, families, rig
from actors.bench.sheet import Sheet
from placement.errors import TierceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actors.bench.plan import Plan

PARTS = ("architectures",)
ANSWER = 12
#: characters of an error that a line shows
NOTE = 160
#: what a model raises that neither runs nor is refused by name: the table has to say so
FAULTS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
#: longer than the window; a lone token; of a third length
PROMPTS = (
    [(index * 7) % 90 + 5 for index in range(30)],
    [61],
    [(index * 11 + 3) % 90 + 5 for index in range(17)],
)


def run(plan: Plan) -> list[Sheet]:
    """Serve prompts of several lengths in one batch, family by family; `generate` answers each alone."""
    names = ("llama", "gemma2", "mamba") if plan.quick else tuple(families.EVERY)
    sheet = Sheet(f"architectures: {len(PROMPTS)} prompts in one batch, {ANSWER} greedy tokens each, fp32")
    for name in names:
        with TemporaryDirectory() as folder:
            how, told = verdict(plan, name, Path(folder))
        sheet.add(name, how, note=told)
    return [sheet]


def verdict(plan: Plan, name: str, folder: Path) -> tuple[str, str]:
    """Return "packed", "eager", "refused" or "failed"; how many answers equal `generate`'s, or why not."""
    make, how = families.EVERY[name]
    try:
        with baselines.quiet():
            if how == "refused":  # by its config: many of these cannot be saved with weights
                make().save_pretrained(folder)
            else:
                families.write(folder, make())
            model = rig.load_model(str(folder), rig.Setting(1, 8, 4 << 20, plan.threads))
        ours = rig.greedy(model, PROMPTS, ANSWER)
        net = baselines.base(str(folder), "float32", "eager")
        theirs = [alone(net, prompt) for prompt in PROMPTS]
    except TierceError as error:
        return "refused", textwrap.shorten(str(error), NOTE)
    except FAULTS as error:
        return "failed", textwrap.shorten(repr(error), NOTE)
    equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
    return how, f"{equal} of {len(PROMPTS)} answers equal generate"


def alone(net: object, prompt: Sequence[int]) -> list[int]:
    """Continue one prompt greedily in transformers; the end token does not end it."""
    return baselines.generate(net, [prompt], ANSWER)[0]
