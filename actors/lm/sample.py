"""From logits to tokens, one choice per sequence, each with its own dice.

Whatever a row needs beyond the best token is computed on the CPU, by one thread, in fp32 with sums in fp64:
it depends on that row, its Drawing and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.random import PCG64, SeedSequence

from actors.lm.request import TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from actors.lm.request import Sampling

#: Below it a draw is the best token anyway, and dividing by it would only overflow.
MIN_TEMPERATURE = 1e-6
#: So many of the best tokens are tried first as those of `top_p`: mostly they are, and then the rest need
#: no order.
HEAD = 4096


def dice(sampling: Sampling, index: int = 0) -> PCG64 | None:
    """Return the generator of answer `index` to a request; None when greedy.

    Its stream is numpy's PCG64 of SeedSequence(seed, spawn_key=(index,)): independent for each pair, and the
    same however many answers were asked for. Without a seed it starts from the system's entropy.
    """
    if sampling.temperature == 0:
        return None
    if sampling.seed is None:
        return PCG64()
    return PCG64(SeedSequence(sampling.seed, spawn_key=(index,)))


@dataclass(slots=True, eq=False)
class Drawing:
    """What choosing the next token of one sequence depends on, beside its logits.

    `seen` are the tokens of prompt and answer so far. They are read only with a repetition penalty; whoever
    keeps a Drawing for the whole answer appends each chosen token and removes none.
    """

    sampling: Sampling
    dice: PCG64 | None = None
    seen: list[int] = field(default_factory=list)
    #: which tokens of the vocabulary are among the first `_folded` of `seen`
    _marks: NDArray[np.bool_] | None = field(default=None, repr=False)
    _folded: int = field(default=0, repr=False)

    @classmethod
    def of(cls, sampling: Sampling, prompt: Sequence[int], index: int = 0) -> Drawing:
        """Return the Drawing with which answer `index` to `prompt` begins."""
        return cls(sampling, dice(sampling, index), [*prompt])

    @property
    def plain(self) -> bool:
        """Whether the best token is all that is asked."""
        sampling = self.sampling
        return self.dice is None and sampling.logprobs is None and sampling.repetition_penalty == 1

    def penalise(self, row: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return `row` [vocab] with what was seen made less likely: divided above 0, multiplied below."""
        penalty = np.float32(self.sampling.repetition_penalty)
        if penalty == 1:
            return row
        if self._marks is None:
            self._marks = np.zeros(len(row), bool)
        self._marks[np.array(self.seen[self._folded :], dtype=np.int64)] = True
        self._folded = len(self.seen)
        tokens = np.flatnonzero(self._marks)
        row, scores = row.copy(), row[tokens]
        row[tokens] = np.where(scores < 0, scores * penalty, scores / penalty)
        return row


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen token, with its log-probability if that was asked for."""

    token: int
    logprob: TokenLogprob | None = None


def choose(logits: Tensor, asked: Sequence[Drawing]) -> list[Choice | None]:
    """Return a choice for each row of `logits` [K, vocab], None where a row is not finite (a broken answer).

    A greedy choice is the best token, the first of equals. Of those left by the settings (see `Sampling`) a
    draw takes one by a single number of the row's dice.
    """
    best, finite = _best(logits)
    chosen: list[Choice | None] = [
        Choice(token) if sane else None for token, sane in zip(best, finite, strict=True)
    ]
    wanted = [index for index, drawing in enumerate(asked) if finite[index] and not drawing.plain]
    if wanted:
        rows = (logits if len(wanted) == len(asked) else logits[wanted]).detach()
        for index, row in zip(wanted, rows.to("cpu", torch.float32).numpy(), strict=True):
            chosen[index] = _choose(row, asked[index])
    return chosen


def _best(logits: Tensor) -> tuple[list[int], list[bool]]:
    """Return the best token of each row, and whether all of the row is finite."""
    if logits.device.type != "cpu":
        best, finite = logits.argmax(-1), torch.isfinite(logits.sum(-1, dtype=torch.float32))
        tokens, sane = torch.stack((best, finite.to(best.dtype))).tolist()
        return tokens, [bool(one) for one in sane]
    # numpy takes 1/10 of torch's time on a CPU; NaN is both the greatest and the least for it.
    rows = logits.detach().to(torch.float32).numpy()
    top = rows.argmax(-1)
    greatest, least = np.take_along_axis(rows, top[:, None], -1)[:, 0], rows.min(-1)
    return top.tolist(), (np.isfinite(greatest) & np.isfinite(least)).tolist()


def _choose(row: NDArray[np.float32], drawing: Drawing) -> Choice:
    scores = drawing.penalise(row)
    token = int(scores.argmax()) if drawing.dice is None else _draw(scores, drawing.sampling, drawing.dice)
    count = drawing.sampling.logprobs
    return Choice(token, None if count is None else _logprob(row, token, count))


def _draw(row: NDArray[np.float32], sampling: Sampling, generator: PCG64) -> int:
    """Return the token, among those that the settings leave, at which the sum of chances passes the dice."""
    with np.errstate(over="ignore"):  # what is too far below the best has no chance
        scores = (row - row.max()) / np.float32(max(sampling.temperature, MIN_TEMPERATURE))
    ids: NDArray[np.intp] | None = None
    if 0 < sampling.top_k < len(scores):
        ids = np.flatnonzero(scores >= _nth_best(scores, sampling.top_k))
        scores = scores[ids]
    weights = np.exp(scores)  # relative to the best, which has 1
    kept: NDArray[np.intp] | None = None
    if sampling.top_p < 1:
        kept = _nucleus(scores, weights, sampling.top_p)
        weights = weights[kept]
    if sampling.min_p > 0:
        likely = np.flatnonzero(weights >= np.float32(sampling.min_p))
        kept = likely if kept is None else kept[likely]
        weights = weights[likely]
    sums = _sums(weights)
    # 53 bits, from 0 up to but not 1; the raw stream of a bit generator never changes between versions
    share = (int(generator.random_raw()) >> 11) * 2.0**-53
    point = min(share * sums[-1], np.nextafter(sums[-1], 0))
    place = int(np.searchsorted(sums, point, side="right"))
    place = place if kept is None else int(kept[place])
    return place if ids is None else int(ids[place])


def _nth_best(scores: NDArray[np.float32], count: int) -> np.float32:
    place = len(scores) - count
    return np.float32(np.partition(scores, place)[place])


def _sums(weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the running sums, added one by one; torch takes a third of numpy's time for it."""
    sums: NDArray[np.float64] = torch.from_numpy(weights).cumsum(0, dtype=torch.float64).numpy()
    return sums


def _nucleus(scores: NDArray[np.float32], weights: NDArray[np.float32], share: float) -> NDArray[np.intp]:
    """Return the places, ascending, of the smallest set of best scores whose weights reach `share` of all.

    Of equal scores at its edge the first are in it.
    """
    goal = share * float(weights.sum(dtype=np.float64))
    head = np.flatnonzero(scores >= _nth_best(scores, HEAD)) if len(scores) > HEAD else None
    if head is not None and float(weights[head].sum(dtype=np.float64)) < goal:
        head = None
    some = scores if head is None else scores[head]
    ordered = np.sort(some)[::-1]
    sums = _sums(np.exp(ordered))
    count = min(int(np.searchsorted(sums, goal, side="left")) + 1, len(ordered))
    edge = ordered[count - 1]
    inside = some > edge
    inside[np.flatnonzero(some == edge)[: count - int(inside.sum())]] = True
    places = np.flatnonzero(inside)
    return places if head is None else head[places]


def _logprob(row: NDArray[np.float32], token: int, count: int) -> TokenLogprob:
    """Return what the unchanged logits `row` say of `token` and of the `count` best."""
    logprobs = row - row.max()
    logprobs -= np.float32(np.log(np.exp(logprobs).sum(dtype=np.float64)))
    if not count:
        return TokenLogprob(token, float(logprobs[token]))
    best = np.flatnonzero(row >= _nth_best(row, min(count, len(row))))
    best = best[np.argsort(-row[best], kind="stable")][:count]
    top = tuple((int(one), float(logprobs[one])) for one in best)
    return TokenLogprob(token, float(logprobs[token]), top)
