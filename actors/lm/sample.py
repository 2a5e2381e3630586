"""From logits to tokens, one choice per sequence, each with its own dice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from actors.lm.request import Sampling

#: Below it a draw is the best token anyway, and dividing by it would only overflow.
MIN_TEMPERATURE = 1e-6


def dice(sampling: Sampling) -> torch.Generator | None:
    """Return a request's own generator: seeded as asked, else by the system's entropy; None when greedy."""
    if sampling.temperature == 0:
        return None
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    return generator


def choose(logits: Tensor, asked: Sequence[tuple[Sampling, torch.Generator | None]]) -> list[int | None]:
    """Return a token for each row of `logits` [K, vocab], None where a row is not finite (a broken answer).

    Draws happen on the CPU in fp32, so the same seed gives the same token whatever else is in the batch.
    """
    best = logits.argmax(-1).tolist()
    finite = torch.isfinite(logits.sum(-1, dtype=torch.float32)).tolist()
    return [
        (_draw(row, sampling, generator) if generator is not None else token) if sane else None
        for row, token, sane, (sampling, generator) in zip(logits, best, finite, asked, strict=True)
    ]


def _draw(row: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    scores = row.detach().to("cpu", torch.float32)  # [vocab]
    scores = (scores - scores.max()) / max(sampling.temperature, MIN_TEMPERATURE)
    if 0 < sampling.top_k < scores.numel():
        worst = torch.topk(scores, sampling.top_k).values[-1]
        scores = scores.masked_fill(scores < worst, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = torch.sort(scores, descending=True)
        before = torch.softmax(ordered, -1).cumsum(-1).roll(1)
        before[0] = 0.0
        scores[order[before >= sampling.top_p]] = -torch.inf
    return int(torch.multinomial(torch.softmax(scores, -1), 1, generator=generator))
