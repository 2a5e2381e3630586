"""Scores of a replay as a picture: exposed seconds, and where asks found their items."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from placement.errors import UserError
from placement.replay.replay import POLICIES
from placement.tiers import Tier

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from placement.replay.tally import Score

#: darkest for the fastest; ours and the clairvoyant one stand out
_TIERS = {Tier.VRAM: "#2b5c8a", Tier.RAM: "#7fb069", Tier.SSD: "#e6c260"}
_BARS = dict(zip(POLICIES, ("#2b5c8a", "#b8c4ce", "#8d9aa6", "#616e7c", "#d1495b"), strict=True))


def drawable() -> None:
    """Raise UserError TRC085 where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise UserError(
            "TRC085", "a plot needs matplotlib, which is not installed", "pip install 'tierce[plot]'"
        )


def draw(scores: Sequence[Score], title: str, path: Path) -> None:
    """Write a PNG: for each number of slots, a bar for each policy's exposed seconds and its asks by tier.

    Raises UserError TRC085 without matplotlib, TRC086 for a file that cannot be written.
    """
    drawable()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    above, below = figure.subplots(2, 1)
    figure.suptitle(title)
    _exposed(above, scores)
    _found(below, scores)
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise UserError("TRC086", f"the plot {path} cannot be written: {error.strerror}") from error


def _exposed(axes: Axes, scores: Sequence[Score]) -> None:
    policies = list(dict.fromkeys(score.policy for score in scores))
    slots = list(dict.fromkeys(score.slots for score in scores))
    width = 0.8 / len(policies)
    for number, policy in enumerate(policies):
        mine = {score.slots: score for score in scores if score.policy == policy}
        at = [place - 0.4 + (number + 0.5) * width for place in range(len(slots))]
        seconds = [mine[count].total_s for count in slots]
        bars = axes.bar(at, seconds, width, label=policy, color=_BARS[policy])
        axes.bar_label(bars, fmt="{:.0f}", fontsize=8)
    axes.set_xticks(range(len(slots)), [f"{count} slots" for count in slots])
    axes.set_ylabel("exposed seconds, all asks")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)


def _found(axes: Axes, scores: Sequence[Score]) -> None:
    bottom = [0.0] * len(scores)
    for tier, colour in _TIERS.items():
        shares = [score.ratio(tier) for score in scores]
        axes.bar(range(len(scores)), shares, bottom=bottom, label=str(tier), color=colour)
        bottom = [below + share for below, share in zip(bottom, shares, strict=True)]
    axes.set_xticks(range(len(scores)), [f"{score.policy}\n{score.slots}" for score in scores], fontsize=8)
    axes.set_ylabel("asks by where the item was")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
