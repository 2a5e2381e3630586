"""Which kernel runs each Linear of a base: chosen by measurement when the base is loaded."""

from __future__ import annotations

import ctypes
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import linear as torch_linear

from actors.lm.kernels import CutLinear, Cuts, Dense, PackedLinear, WideEmbedding, block_rows, library
from placement.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor

    from actors.lm.kernels import Kernel
    from actors.lm.measured import Times

#: Rows of a batch, and how much each counts: most forwards are decode steps of a few sequences.
ROWS = {1: 0.3, 4: 0.25, 8: 0.25, 16: 0.15, 64: 0.05}
#: Elements of the weights of one shape that are timed in turn: in fp32 they fill a cache of 32 MiB.
TIMED = 8 << 20
SAMPLES = 4
#: A kernel takes the place of one that is to be preferred only if it is faster by this: what is chosen should
#: not change from start to start with the noise, because the bits of a seeded answer do.
FASTER = 0.85
#: Threads that pack while a base is loaded, when it serves nobody yet.
PACKERS = 4
HALF_NBYTES = 2
GRAINS = (1, 4, 8, 16, 32, 64)
WHOLE = GRAINS[-1]
#: Counts of rows that are compared with WHOLE rows. Above the last one, a batch is cut into these.
COUNTS = (1, 2, 3, 5, 7, 13, *range(4, 33, 4), 40, 48, 56, WHOLE, 96)
#: The same for torch's own Linears, which are left alone if no multiple of the grain need be cut.
UNCUT = (1, 2, 3, 5, 7, 13, *range(4, 33, 4), 48, WHOLE, 128, 256, 512)

Shape = tuple[int, int]  # (out features, in features)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was chosen: every GEMM gives a row the same bits at each multiple of `grain` rows.

    `chosen` names the kernel of each Linear, `times_s` what each candidate took, by "out x in", its name and
    rows; both are told in stats. `nbytes` is what the packed weights take.
    """

    grain: int
    chosen: dict[str, str]
    times_s: Times
    nbytes: int


@dataclass(slots=True, eq=False)
class Trial:
    """One candidate for the Linears of one shape: what it takes by rows, and at which counts it agrees.

    `kernels` hold the first of these Linears, or only a block of each: then they are for measuring only.
    """

    kind: type[Kernel]
    kernels: list[Kernel]
    whole: bool
    times_s: dict[int, float] = field(default_factory=dict)
    grain: int = 1
    cuts: Cuts = field(default_factory=Cuts)

    def cost_s(self, grain: int) -> float:
        """Return the weighted time of a forward whose rows are padded to multiples of `grain`."""
        padded = {rows: -(-rows // grain) * grain for rows in ROWS}
        known = {rows: min(at for at in self.times_s if at >= padded[rows]) for rows in ROWS}
        return sum(weight * self.times_s[known[rows]] for rows, weight in ROWS.items())


@torch.inference_mode()
def fit(
    net: nn.Module, dtype: torch.dtype, *, auto: bool, deterministic: bool, known: Times | None = None
) -> Fitted:
    """Put the fastest kernel in place of each Linear of `net`, to compute in `dtype` on its device.

    A net in 16 bits that is to compute in fp32 keeps its embeddings, and each weight that the kernel can hold
    so, in 16 bits; the rest becomes fp32. Without `auto`, for another dtype than fp32, and on a GPU, the
    Linears stay torch's own. With `deterministic` a kernel must give a row the same bits in any company, and
    its padding counts. Runs with the threads that torch has now; takes about a second beside the packing.
    A shape whose times are `known` is not timed: what they led to before, they lead to again.
    Raises UserError LM023 if no kernel can be deterministic.
    """
    linears = {name: module for name, module in net.named_modules() if type(module) is nn.Linear}
    shapes: dict[Shape, list[str]] = {}
    for name, linear in linears.items():
        shapes.setdefault((linear.out_features, linear.in_features), []).append(name)
    on_cpu = all(linear.weight.device.type == "cpu" for linear in linears.values())
    if not (auto and on_cpu and dtype == torch.float32):
        grain = _leave(net, linears, shapes) if deterministic else 1
        return Fitted(grain, dict.fromkeys(linears, Dense.name), {}, 0)
    trials: dict[Shape, list[Trial]] = {}
    times_s: Times = {}
    for shape, names in shapes.items():
        told = f"{shape[0]} x {shape[1]}"
        tried = _try(shape, [linears[name].weight for name in names], (known or {}).get(told, {}))
        times_s[told] = {trial.kind.name: trial.times_s for trial in tried}
        trials[shape] = _ahead(tried)
        if deterministic:
            trials[shape] = _deterministic(trials[shape], shape) or _deterministic(tried, shape)
            if not trials[shape]:
                raise _refusal(shape)
    grain = _grain(trials, {shape: len(names) for shape, names in shapes.items()})
    ranked = {shape: _ranked(tried, grain) for shape, tried in trials.items()}
    order = [(shape, index, name) for shape, names in shapes.items() for index, name in enumerate(names)]
    chosen, nbytes = {}, 0
    with ThreadPoolExecutor(min(PACKERS, os.cpu_count() or 1)) as pool:  # packing leaves the GIL alone
        packed = pool.map(lambda at: _pack(ranked[at[0]], linears[at[2]].weight, at[1]), order)
        for (_, index, name), (trial, kernel) in zip(order, packed, strict=True):
            grain = max(grain, trial.grain)
            chosen[name], nbytes = kernel.name, nbytes + kernel.nbytes
            _replace(net, name, PackedLinear(linears.pop(name), kernel, trial.cuts))
            if index % PACKERS == 0:
                _give_back()
    _widen(net)
    _give_back()
    return Fitted(grain, chosen, times_s, nbytes)


def _try(shape: Shape, weights: Sequence[Tensor], known: Mapping[str, Mapping[int, float]]) -> list[Trial]:
    """Time each kernel that can hold the weights of one shape, unless the times of all are known."""
    part = block_rows(*shape)
    copies = [weight[:part] for weight in weights[: min(SAMPLES, max(1, TIMED // (part * shape[1])))]]
    trials = []
    for kind in library():
        kernels = [kernel for kernel in map(kind.pack, copies) if kernel is not None]
        if len(kernels) == len(copies):
            trials.append(Trial(kind, kernels, whole=part == shape[0]))
    if all(known.get(trial.kind.name, {}).keys() == ROWS.keys() for trial in trials):
        for trial in trials:
            trial.times_s = dict(known[trial.kind.name])
        return trials
    for rows in sorted(ROWS, reverse=True):
        _time(trials, _rows(rows, shape))
    return trials


def _deterministic(trials: Sequence[Trial], shape: Shape) -> list[Trial]:
    """Find the grain of each candidate; return those that have one."""
    for trial in trials:
        trial.grain, trial.cuts = _cuts(agreeing(trial.kernels[0], _rows(1, shape), COUNTS), COUNTS)
    return [trial for trial in trials if trial.grain]


def _rows(count: int, shape: Shape) -> Tensor:
    return torch.randn(count, shape[1], generator=torch.Generator().manual_seed(1))


def _time(trials: Sequence[Trial], x: Tensor) -> None:
    """Note the best of some calls; more rows must have been timed before.

    A weight comes again only after all the others, so that no cache has it. One thread's own time is taken
    where there is one: others on the machine disturb it less.
    """
    rows, copies = len(x), len(trials[0].kernels)
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    for trial in trials:
        trial.kernels[0](x)  # oneDNN compiles at the first call
        trial.times_s[rows] = min(trial.times_s.values(), default=math.inf)
    for sample in range(SAMPLES):
        for trial in trials:
            began_s = clock()
            trial.kernels[sample % copies](x)
            trial.times_s[rows] = min(clock() - began_s, trial.times_s[rows])


def _ahead(trials: Sequence[Trial]) -> list[Trial]:
    """Return the best that holds any weight, and of those that do not each that may be faster."""
    last = _ranked([one for one in trials if one.kind.any_weight], 1)[0]
    ahead = [one for one in trials if not one.kind.any_weight and one.cost_s(1) * FASTER < last.cost_s(1)]
    return [*ahead, last]


def agreeing(run: Callable[[Tensor], Tensor], x: Tensor, counts: Iterable[int]) -> list[int]:
    """Return the `counts` of rows at which the one row `x` [1, in] gives the bits that it has among WHOLE.

    At any position: all rows of a batch are the same row, and all must come out the same.
    """
    wanted = run(x.expand(WHOLE, -1).contiguous())[:1]
    return [count for count in counts if bool((run(x.expand(count, -1).contiguous()) == wanted).all())]


def _cuts(agree: Sequence[int], counts: Sequence[int]) -> tuple[int, Cuts]:
    """Return the smallest grain with the cuts that it needs; grain 0 if even WHOLE rows do not agree."""
    if set(counts) == set(agree):
        return 1, Cuts()
    if WHOLE not in agree:
        return 0, Cuts()
    grain = next(grain for grain in GRAINS[1:] if grain in agree)
    return grain, Cuts([count for count in agree if count % grain == 0])


def _grain(trials: Mapping[Shape, list[Trial]], count: Mapping[Shape, int]) -> int:
    """Return the grain at which all Linears together are fastest: each must be padded to the same."""
    costs = {}
    for grain in GRAINS:
        best = {shape: _ranked(tried, grain)[0] for shape, tried in trials.items()}
        if all(trial.grain <= grain for trial in best.values()):
            costs[grain] = sum(
                count[shape] * _cost_s(trials[shape], trial, grain) for shape, trial in best.items()
            )
    return min(costs, key=costs.__getitem__, default=1)


def _ranked(trials: Sequence[Trial], grain: int) -> list[Trial]:
    """Return the candidates for one shape, best first; those whose grain is larger stand last."""
    return sorted(trials, key=lambda trial: (trial.grain > grain, _cost_s(trials, trial, grain)))


def _cost_s(trials: Sequence[Trial], trial: Trial, grain: int) -> float:
    """Return the time of a candidate with a handicap for each that is to be preferred to it."""
    return trial.cost_s(grain) * FASTER ** -trials.index(trial)


def _pack(ranked: Sequence[Trial], weight: Tensor, index: int) -> tuple[Trial, Kernel]:
    """Pack with the best kernel that holds this weight without loss; what was packed for a trial is used."""
    for trial in ranked:
        if trial.whole and index < len(trial.kernels):
            return trial, trial.kernels[index]
        kernel = trial.kind.pack(weight)
        if kernel is not None:
            return trial, kernel
    raise _refusal((weight.shape[0], weight.shape[1]))


def _leave(net: nn.Module, linears: Mapping[str, nn.Linear], shapes: Mapping[Shape, list[str]]) -> int:
    """Find the grain of torch's own Linears. One that has none is cut into counts of rows that agree."""
    grain = 1
    for shape, names in shapes.items():
        weight = linears[names[0]].weight[: block_rows(*shape)]

        def run(rows: Tensor, weight: Tensor = weight) -> Tensor:
            return torch_linear(rows, weight)

        agree = agreeing(run, _rows(1, shape).to(weight), UNCUT)
        own, cuts = _cuts(agree, UNCUT)
        if not own:
            raise _refusal(shape)
        uncut = (each for each in GRAINS if all(n in agree for n in UNCUT if n % each == 0))
        least = next(uncut, None)
        if least is None:
            for name in names:
                _replace(net, name, CutLinear(linears[name], cuts))
        grain = max(grain, least or own)
    return grain


def _widen(net: nn.Module) -> None:
    """Give what is left of a 16-bit checkpoint fp32; plain embeddings keep their table and widen its rows."""
    for name, module in list(net.named_modules()):
        if type(module) is nn.Embedding and module.weight.dtype.itemsize == HALF_NBYTES:
            _replace(net, name, WideEmbedding(module))
            continue
        for weight in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if weight.is_floating_point() and weight.dtype.itemsize == HALF_NBYTES:
                weight.data = weight.data.float()


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, module.eval())


def _refusal(shape: Shape) -> UserError:
    told = f"no kernel here gives a row the same bits at each place of {WHOLE} rows, {shape[0]} x {shape[1]}"
    return UserError("LM023", told, "set deterministic: false for this base")


def _give_back() -> None:
    """Return to the machine what the C library keeps of packed weights: else it adds up to half of them."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
