"""Plant one fault at a time into a copy of the tree, and say whether seeds or tests catch it.

python tests/mutants.py                  all of them
python tests/mutants.py forget-the-epoch some

Each mutant replaces an exact piece of source, which must be there once. It is tried on a few storms first,
then on the tests that are named with it, until something fails. The tree itself is never touched. A mutant is
caught if a storm or a test fails; what ends in another way (no test was run, Python did not start) proves
nothing. Exits 1 unless all were caught or hang, 2 if a copy without a fault fails.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
#: storms of each mutant that they can catch
SEEDS = 24
LIMIT_S = 1800.0
BRAIN = (
    "tests/placement/test_plan.py",
    "tests/placement/test_policies.py",
    "tests/placement/test_machine.py",
)


@dataclass(frozen=True)
class Mutant:
    """One planted fault: in `file`, `old` becomes `new`. `tests` are tried after the seeds, if it has any."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = BRAIN
    seeds: int = SEEDS


MUTANTS = (
    Mutant(
        "drop-the-last-copy",
        "placement/plan.py",
        """    if place == spec.durable:
        yield "the durable copy"
    elif not state.ready(item, spec.durable):""",
        """    if not state.ready(item, spec.durable):""",
    ),
    Mutant(
        "ignore-leases",
        "placement/plan.py",
        "    if replica.leases and place not in state.leaves.get(item, ()):\n",
        "    if replica.leases < 0 and place not in state.leaves.get(item, ()):\n",
    ),
    Mutant(
        "copy-from-what-is-not-ready",
        "placement/plan.py",
        "    if not state.ready(item, source):\n        yield",
        "    if (item, source) not in state.replicas:\n        yield",
    ),
    Mutant(
        "count-only-ready-replicas",
        "placement/plan.py",
        "    used = state.used(place)\n",
        """    used = sum(
        nbytes
        for other, nbytes in state.shelves.get(place, {}).items()
        if state.replicas[other, place].phase == "ready"
    )
""",
    ),
    Mutant(
        "seats-are-not-counted",
        "placement/plan.py",
        "    if seated >= seats and state.takes_seat(item, place):\n",
        "    if seated > seats and state.takes_seat(item, place):\n",
    ),
    Mutant(
        "ignore-the-pin",
        "placement/plan.py",
        "    if place == state.home(item) and state.pinned(item):\n",
        "    if place != state.home(item) and state.pinned(item):\n",
    ),
    Mutant(
        "drop-what-is-wanted",
        "placement/plan.py",
        '        if spec.kind == "adapter" and state.wanted(item):\n            yield "wanted"\n',
        "",
    ),
    Mutant(
        "drop-what-was-just-granted",
        "placement/plan.py",
        "        if now_s < state.holds.get(item, now_s):\n",
        "        if now_s > state.holds.get(item, now_s):\n",
    ),
    Mutant(
        "drop-while-it-is-copied-from",
        "placement/plan.py",
        "isinstance(op.command, Copy) and op.command.source == place for op in running",
        "isinstance(op.command, Drop) and op.command.place == place for op in running",
    ),
    Mutant(
        "drop-the-only-index",
        "placement/plan.py",
        "    if not any(state.ready(item, other) for other in others):\n",
        "    if not others:\n",
    ),
    Mutant(
        "grant-before-ready",
        "placement/state.py",
        "if self.serves(item, p) and self.ready(item, p)]",
        "if self.serves(item, p) and self.alive(p.node)]",
    ),
    Mutant(
        "forget-the-epoch",
        "placement/plan.py",
        'op=f"{draft.epoch}.{draft.issued + 1}"',
        'op=f"1.{draft.issued + 1}"',
    ),
    Mutant(
        "the-store-forgets-the-epoch",
        "actors/store.py",
        "        if epoch < self.epoch:\n",
        "        if epoch < 0:\n",
        ("tests/actors/test_store.py",),
        0,
    ),
    Mutant(
        "the-engine-forgets-the-epoch",
        "actors/engine.py",
        "        if epoch < self.epoch:\n",
        "        if epoch < 0:\n",
        ("tests/actors/test_engine.py",),
        0,
    ),
    Mutant(
        "the-shard-forgets-the-epoch",
        "actors/shard.py",
        "        if epoch < self.epoch:\n",
        "        if epoch < 0:\n",
        ("tests/actors/test_shards.py",),
        0,
    ),
    Mutant(
        "an-epoch-is-given-twice",
        "actors/journal.py",
        'epoch = int(self.fact("epoch") or 0) + 1\n',
        'epoch = int(self.fact("epoch") or 1)\n',
        ("tests/actors/test_journal.py",),
        0,
    ),
    Mutant(
        "an-older-drop-is-done",
        "actors/store.py",
        """        self.fence(epoch)
        if tier is Tier.RAM:
            self._ram.pop""",
        """        if tier is Tier.RAM:
            self._ram.pop""",
        ("tests/actors/test_store.py",),
        0,
    ),
    Mutant(
        "a-new-version-forgets-what-was-ordered",
        "actors/journal.py",
        "            self.hand_over(before, version.item)\n",
        "            self.hand_over(before, before)\n",
        ("tests/actors/test_journal.py",),
        0,
    ),
    Mutant(
        "what-cannot-be-mended-is-tried-at-each-beat",
        "placement/mending.py",
        "Attempt(min(last.failures + 1, 32), now_s + pause_s, why)",
        "Attempt(min(last.failures + 1, 32), now_s, why)",
        ("tests/placement/test_mending.py",),
        0,
    ),
    Mutant(
        "a-node-that-returns-begins-its-pauses-anew",
        "placement/change.py",
        "        key: replace(setback, until_s=now_s)\n",
        "        key: replace(setback, until_s=now_s, failures=0)\n",
        ("tests/placement/test_heal.py",),
        0,
    ),
    Mutant(
        "a-restart-forgets-what-was-ordered",
        "placement/resume.py",
        "    home = homes.get(spec.item, spec.home)\n",
        "    home = spec.home\n",
        ("tests/placement/test_restart.py",),
        0,
    ),
    Mutant(
        "skip-the-digest",
        "actors/lm/files.py",
        "        if found != digest:\n            raise WorldError(",
        "        if not digest:\n            raise WorldError(",
        ("tests/lm/test_files.py",),
        0,
    ),
    Mutant(
        "the-sidecar-comes-first",
        "actors/lm/files.py",
        """                    sidecar.unlink(missing_ok=True)
                write(file, image.data)
""",
        """                    write(sidecar, Sidecar(item, image.nbytes, digest).encoded())
                write(file, image.data)
""",
        ("tests/crash/test_images.py",),
        0,
    ),
    Mutant(
        "a-file-is-written-in-place",
        "actors/lm/disk.py",
        '    temporary = target.with_name(target.name + ".tmp")\n',
        "    temporary = target\n",
        ("tests/crash/test_images.py",),
        0,
    ),
    Mutant(
        "a-registration-is-two-steps",
        "actors/journal.py",
        """        self._db.execute("BEGIN")
        self._db.execute("DELETE FROM failures WHERE role = ?", (version.role,))
        known =""",
        """        self._db.execute("DELETE FROM failures WHERE role = ?", (version.role,))
        self._db.execute("BEGIN")
        known =""",
        ("tests/crash/test_journal.py",),
        0,
    ),
    Mutant(
        "a-torn-tail-stays",
        "actors/rag/oplog.py",
        "    os.ftruncate(fd, end)\n    os.fsync(fd)\n",
        "    os.fsync(fd)\n",
        ("tests/crash/test_oplog.py", "tests/rag/test_oplog.py"),
        0,
    ),
    Mutant(
        "leave-before-the-copy-is-there",
        "placement/policies.py",
        "        if item not in state.moves and state.ready(item, home):\n",
        "        if item in state.items:\n",
    ),
    Mutant(
        "a-move-settles-before-it-landed",
        "placement/orders.py",
        "for place in (ordered.to, ordered.landing) if place is not None",
        "for place in (ordered.to,)",
        (*BRAIN, "tests/placement/test_journeys.py"),
    ),
    Mutant(
        "room-is-promised-twice",
        "placement/plan.py",
        "    admitted: list[Command] = []\n",
        "    admitted: list[Command] = []\n"
        "    is_safe = lambda _, *rest, first=draft.draft(): next(objections(first, *rest), None) is None\n",
    ),
    Mutant(
        "room-is-not-looked-at",
        "placement/plan.py",
        "    if crowded := no_room(state, item, target):\n",
        "    if (crowded := no_room(state, item, target)) and target.tier is Tier.SSD:\n",
    ),
    Mutant(
        "never-end-a-want",
        "placement/policies.py",
        "        late = [want for want in wants if lost is not None or now_s >= want.deadline_s]\n",
        "        late = [want for want in wants if lost is not None]\n",
    ),
    Mutant(
        "end-a-want-too-soon",
        "placement/policies.py",
        "        late = [want for want in wants if lost is not None or now_s >= want.deadline_s]\n",
        "        late = [want for want in wants if lost is not None or now_s + 1 >= want.deadline_s]\n",
    ),
    Mutant(
        "no-backoff",
        "placement/change.py",
        "    _set_back(draft, item, place, Setback(failures, now_s + pause_s, *why))\n",
        "    _set_back(draft, item, place, Setback(failures, now_s, *why))\n",
    ),
    Mutant(
        "an-op-has-no-deadline",
        "placement/change.py",
        "if now_s >= running.deadline_s}",
        "if now_s >= running.deadline_s + 1000.0}",
    ),
    Mutant(
        "a-move-has-no-deadline",
        "placement/apply.py",
        "        if now_s >= ordered.deadline_s:\n",
        "        if now_s >= ordered.deadline_s + 1000.0:\n",
    ),
    Mutant(
        "a-dead-node-keeps-its-memory",
        "placement/change.py",
        "        if draft.replicas[item, place].op not in draft.ops and place != draft.items[item].durable\n",
        "        if draft.replicas[item, place].op not in draft.ops and place.tier.height < 0\n",
    ),
    Mutant(
        "a-silent-node-is-never-lost",
        "placement/apply.py",
        "now_s - node.last_beat_s >= limits.beat_timeout_s:",
        "now_s - node.last_beat_s >= limits.beat_timeout_s + 1000.0:",
        (*BRAIN, "tests/placement/test_apply.py"),
    ),
    Mutant(
        "an-old-beat-is-believed",
        "placement/beat.py",
        '        elif asked_s > old.since_s and _in_flight(state, old) != "loading":\n',
        '        elif _in_flight(state, old) != "loading":\n',
        (*BRAIN, "tests/placement/test_apply.py"),
    ),
    Mutant(
        "a-late-answer-is-believed",
        "placement/beat.py",
        "        return asked_s > state.seen[place]\n",
        "        return asked_s > 0\n",
        (*BRAIN, "tests/placement/test_apply.py"),
    ),
)


@dataclass(frozen=True)
class Verdict:
    """How a mutant ended, and by which seed or test: nothing, if it survived."""

    mark: Literal["caught", "hangs", "SURVIVED", "UNCLEAR"]
    by: str = ""


class Unclear(Exception):
    """A run ended otherwise than by a test or a storm that passed or failed."""


def copied(into: Path) -> Path:
    """Copy the tree and return the copy."""
    tree = into / "tree"
    skip = shutil.ignore_patterns("__pycache__", ".*", "shared", "build", "dist", "node_modules")
    shutil.copytree(ROOT, tree, ignore=skip)
    return tree


def plant(mutant: Mutant, tree: Path) -> None:
    """Plant a fault into a copy of the tree. Raises ValueError if its text is not there once."""
    file = tree / mutant.file
    source = file.read_text(encoding="utf-8")
    if (found := source.count(mutant.old)) != 1:
        raise ValueError(f"{mutant.name}: its text is {found} times in {mutant.file}: write it anew")
    file.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")


def tried(seeds: int, tests: Iterable[str], mutant: Mutant | None = None) -> Verdict:
    """Try a copy of the tree, with a fault or without one, until something catches it."""
    with tempfile.TemporaryDirectory(prefix="tierce-mutant-") as folder:
        tree = copied(Path(folder))
        if mutant is not None:
            plant(mutant, tree)
        try:
            by = seed_that_fails(tree, seeds) or next(
                filter(None, (failure(tree, test) for test in tests)), ""
            )
        except subprocess.TimeoutExpired as late:
            return Verdict("hangs", " ".join(late.cmd[1:])[:120])
        except Unclear as unclear:
            return Verdict("UNCLEAR", str(unclear))
    return Verdict("caught", by) if by else Verdict("SURVIVED")


def seed_that_fails(tree: Path, seeds: int) -> str:
    """Return the first seed that fails in a tree, and how; "" if none does."""
    step = 4
    for first in range(0, seeds, step):
        done = _run(tree, "tests/seeds.py", str(first), str(step), "--workers", "1")
        told = [line for line in done.stdout.splitlines() if line.startswith("seed ")]
        if done.returncode == 1 and told:
            return told[0][:120]
        if done.returncode != 0:
            raise Unclear(f"seeds {first} to {first + step - 1}: {ending(done)}")
    return ""


def failure(tree: Path, test: str) -> str:
    """Return the first test of a file that fails in a tree; "" if none does."""
    done = _run(tree, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test)
    told = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    if done.returncode == 1 and told:
        return told[0].partition(" - ")[0][:120]
    if done.returncode != 0:
        raise Unclear(f"{test}: {ending(done)}")
    return ""


def ending(done: subprocess.CompletedProcess[str]) -> str:
    """Return exit status and last words of a run."""
    words = (done.stderr.strip() or done.stdout.strip())[-120:].replace("\n", " ")
    return f"exit {done.returncode}: {words}"


def _run(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def tell(name: str, verdict: Verdict, began_s: float) -> None:
    """Print a line of the table."""
    print(f"{verdict.mark:<9}{time.monotonic() - began_s:>6.1f} s  {name:<34}{verdict.by}", flush=True)


def main() -> int:
    """Try a sound copy, then the mutants that the line names, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *(mutant.name for mutant in MUTANTS)])
    names = parser.parse_args().names
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    tests = dict.fromkeys(test for mutant in chosen for test in mutant.tests)
    began_s = time.monotonic()
    sound = tried(max(mutant.seeds for mutant in chosen), tests)
    if sound.mark != "SURVIVED":
        tell("(no fault)", sound, began_s)
        print("a copy without a fault fails: mend that first")
        return 2
    marks: Counter[str] = Counter()
    for mutant in chosen:
        began_s = time.monotonic()
        verdict = tried(mutant.seeds, mutant.tests, mutant)
        marks[verdict.mark] += 1
        tell(mutant.name, verdict, began_s)
    print(f"of {len(chosen)} " + ", ".join(f"{count} {mark}" for mark, count in marks.items()))
    return 1 if marks["SURVIVED"] or marks["UNCLEAR"] else 0


if __name__ == "__main__":
    sys.exit(main())
