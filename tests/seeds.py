"""Play seeded storms around the brain, in as many processes as there are cores, and say which seeds fail.

python tests/seeds.py 123            one seed; `--trace` tells all that was heard and commanded
python tests/seeds.py 0 1000         a range: from, how many
"""

import argparse
import os
import random
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from placement.errors import TierceError
from placement.faults import CALM
from placement.faults import draw as draw_faults
from placement.machine import Machine
from placement.messages import describe
from placement.scenery import draw as draw_scene
from placement.simulate import Play
from tests.placement.brain_lab import BRISK

EVENTS = 300


@dataclass
class Report:
    """How one seed, or many, went: what is wrong, by seed, and what happened on the way."""

    problems: dict[int, tuple[str, ...]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    events: int = 0
    seeds: int = 0

    def add(self, other: "Report") -> None:
        self.problems |= other.problems
        self.counts.update(other.counts)
        self.events += other.events
        self.seeds += other.seeds


def stage(seed: int) -> Play:
    """Return the play of a seed, which draws the lab, the faults and all that happens."""
    dice = random.Random(seed)
    return Play(lambda epoch: Machine(BRISK, epoch), draw_scene(dice), dice, draw_faults(dice))


def play(seed: int) -> Report:
    """Play one seed to its end."""
    run = stage(seed)
    try:
        run.run(EVENTS)
    except Exception as error:  # noqa: BLE001  whatever it is, it belongs to this seed
        return Report({seed: (f"{type(error).__name__}: {error}",)}, run.world.counts, run.heard, 1)
    outcome = run.outcome()
    found = (*outcome.violations, *outcome.stuck, *(outcome.misses if run.faults == CALM else ()))
    counts = Counter(outcome.counts)
    counts.update(outcome.ended.values())
    return Report({seed: found} if found else {}, counts, run.heard, 1)


def sweep(first: int, count: int, workers: int) -> Report:
    """Play a range of seeds."""
    total = Report()
    seeds = range(first, first + count)
    if workers == 1:
        for seed in seeds:
            total.add(play(seed))
        return total
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for report in pool.map(play, seeds, chunksize=10):
            total.add(report)
    return total


def command(seed: int) -> str:
    """Return the line that plays a seed again and tells it."""
    return f"python tests/seeds.py {seed} --trace"


def trace(seed: int) -> None:
    """Print the lab of a seed, its faults, and all that was heard and commanded, then what is wrong."""
    run = stage(seed)
    for spec in run.lab.specs:
        print(f"{spec.item}: {spec.nbytes} bytes, home {spec.home}, durable {spec.durable}")
    print(run.faults)
    try:
        run.run(EVENTS)
        outcome = run.outcome()
        print(*outcome.misses, sep="\n")
    finally:
        for at_s, told in run.log:
            op = getattr(told, "item", getattr(told, "node", ""))
            print(f"{at_s:8.3f}  {op}: {describe(told)}")


def main() -> int:
    """Play what the line says; 0 if nothing is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int, nargs="?", default=1)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--trace", action="store_true")
    asked = parser.parse_args()
    if asked.trace:
        try:
            trace(asked.first)
        except TierceError as error:
            print(error)
    began_s = time.monotonic()
    total = sweep(asked.first, asked.count, 1 if asked.count == 1 else asked.workers)
    took_s = time.monotonic() - began_s
    for seed, problems in sorted(total.problems.items()):
        print(f"seed {seed}: {problems[0]}", *problems[1:], sep="\n    ")
        print(f"    {command(seed)}")
    told = ", ".join(f"{what} {count}" for what, count in sorted(total.counts.items()))
    pace = f"{total.events} events in {took_s:.1f} s ({60 * total.seeds / took_s:.0f} a minute)"
    print(f"{total.seeds} seeds, {pace}")
    print(f"{len(total.problems)} failed; {told}")
    return 1 if total.problems else 0


if __name__ == "__main__":
    sys.exit(main())
