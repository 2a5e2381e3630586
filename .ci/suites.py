"""Run the test suites, each in a process of its own, and print the seconds of each.

python .ci/suites.py               every suite
python .ci/suites.py lm rag        some
python .ci/suites.py --soak        the long runs

A suite is a folder of tests/, or `house` for the files directly in tests/. `pure` is tests/placement once
more, in an environment that has neither Ray nor torch. Suites that start no Ray run two at a time, the long
ones of them beside one that does. Exits 1 if any suite failed, after all have run.
"""

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from types import FrameType
from typing import IO, NoReturn, Self
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parent.parent
FULL = ROOT / ".venv/bin/python"
PURE = ROOT / ".venv-pure/bin/python"

ORDER = ("pure", "placement", "storm", "house", "lm", "rag", "crash", "cli", "bench", "actors", "jobs")
ABSENT_IN_PURE = ("ray", "torch", "numpy", "transformers", "qdrant_client", "qdrant_edge")
#: What both `pure` and `placement` run.
DECISIONS = ("tests/placement",)
#: What is computed beside suites that start Ray: it waits for nobody.
ASIDE = {"pure", "placement", "storm", "lm"}
TESTS_LIMIT_S = 40 * 60.0
SOAK_LIMIT_S = 4 * 3600.0
#: how long a suite that is interrupted may take to end what it began
GRACE_S = 30.0

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "",  # hundreds of processes import the same files
    "RAY_AUTH_MODE": "token",  # left unset, it depends on whether a token file lies about
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Suite:
    """A named run of pytest; `gently` stands before its command."""

    name: str
    python: Path
    arguments: tuple[str, ...]
    starts_ray: bool = False
    gently: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a suite ended; `verdict` counts its tests, or says why it has no count."""

    name: str
    passed: bool
    verdict: str
    took_s: float


def test_suites() -> list[Suite]:
    """Every suite that the tree has, in the order of the floors; a folder that ORDER lacks comes last."""
    tests = ROOT / "tests"
    targets = {
        "pure": list(DECISIONS),
        "house": sorted(f"tests/{path.name}" for path in tests.glob("test_*.py")),
    }
    for path in tests.glob("*/**/test_*.py"):
        folder = path.relative_to(tests).parts[0]
        targets[folder] = [f"tests/{folder}"]
    names = [name for name in ORDER if targets.get(name)] + sorted(targets.keys() - set(ORDER))
    return [
        Suite(name, PURE if name == "pure" else FULL, tuple(targets[name]), starts_ray(targets[name]))
        for name in names
    ]


def starts_ray(targets: list[str]) -> bool:
    """Tell whether some test of these files and folders has the marker `ray`."""
    files = [file for target in targets for file in (ROOT / target).glob("**/test_*.py")]
    return any("mark.ray" in file.read_text(encoding="utf-8") for file in files)


def soak_suites() -> list[Suite]:
    """Run the tests that are marked soak, then those of placement with many more examples each."""
    long = ("--timeout", str(int(SOAK_LIMIT_S)), "--hypothesis-profile", "soak")
    return [
        Suite("soak", FULL, ("-m", "soak", *long, "tests")),
        Suite("placement", FULL, (*long, "tests/placement")),
    ]


def refuse_impure() -> None:
    """Exit unless the bare environment is bare: a suite that passes there then needs none of these."""
    names = ", ".join(repr(name) for name in ABSENT_IN_PURE)
    code = f"import importlib.util as u; print(*[name for name in ({names},) if u.find_spec(name)])"
    found = subprocess.run(
        [PURE, "-P", "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    if found:
        sys.exit(f"pure: .venv-pure can import {', '.join(found)}; remove it and run `make test` again")
    print(f"pure: .venv-pure cannot import {', '.join(ABSENT_IN_PURE)}", flush=True)


class Runner:
    """Runs suites, each in a process group of its own, until their common time is over.

    One at a time may be live: its output is shown as it comes. That of others is kept, and shown whole when
    no live one is at it; no suite waits for that. Left by an error, by Ctrl-C or by SIGTERM, it ends those
    that run and begins no other.
    """

    def __init__(self, limit_s: float) -> None:
        self._until_s = time.monotonic() + limit_s
        self._screen = Lock()
        self._kept: deque[str] = deque()
        #: held while a suite is begun, so that none is missed by who ends them
        self._beginning = Lock()
        self._running: set[subprocess.Popen[bytes]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._end()
        self._show()

    def run(self, suite: Suite, *, live: bool) -> Outcome:
        """Run one suite to its end; past the common time, its process group is ended."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if live:
                with self._screen:
                    print(f"\n== {suite.name}", flush=True)
                    outcome = self._run(suite, folder, None)
            else:
                with (folder / "said.txt").open("w+", encoding="utf-8") as said:
                    outcome = self._run(suite, folder, said)
                    said.seek(0)
                    self._kept.append(f"\n== {suite.name}\n{said.read().rstrip()}")
            self._show()
            return outcome

    def _show(self) -> None:
        """Print what is kept, unless a live suite is at it: it does so itself when it has ended."""
        while self._kept and self._screen.acquire(blocking=False):
            with suppress(IndexError):  # another has printed it meanwhile
                print(self._kept.popleft(), flush=True)
            self._screen.release()

    def _end(self) -> None:
        """Begin no suite any more; interrupt those that run, and kill what has not ended after GRACE_S."""
        with self._beginning:
            self._until_s = -math.inf
        running = list(self._running)
        for process in running:
            send(process, signal.SIGINT)
        give_up_s = time.monotonic() + GRACE_S
        try:
            for process in running:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(give_up_s - time.monotonic(), 0.0))
        finally:  # a second Ctrl-C waits for nothing
            for process in running:
                if process.poll() is None:
                    send(process, signal.SIGKILL)

    def _run(self, suite: Suite, folder: Path, said: IO[str] | None) -> Outcome:
        result = folder / "result.xml"
        began_s = time.monotonic()
        with self._beginning:
            if began_s > self._until_s:
                return Outcome(suite.name, passed=False, verdict="no time was left for it", took_s=0.0)
            process = subprocess.Popen(
                [*suite.gently, suite.python, "-m", "pytest", "-q", f"--junitxml={result}", *suite.arguments],
                cwd=ROOT,
                env=os.environ | ENVIRONMENT,
                start_new_session=True,
                stdout=said,
                stderr=None if said is None else subprocess.STDOUT,
            )
            self._running.add(process)
            left_s = self._until_s - began_s
        try:
            status = process.wait(left_s)
            verdict = counts(result) if result.exists() else f"exit {status}"
        except subprocess.TimeoutExpired:
            send(process, signal.SIGKILL)
            status, verdict = process.wait(), "not done in time"
        self._running.discard(process)
        return Outcome(suite.name, status == 0, verdict, time.monotonic() - began_s)


def send(process: subprocess.Popen[bytes], what: signal.Signals) -> None:
    """Send a signal to the process group that a suite leads."""
    with suppress(ProcessLookupError):  # it has ended meanwhile
        os.killpg(process.pid, what)


def run_all(suites: list[Suite], runner: Runner) -> list[Outcome]:
    """Run suites in two lanes, and return how they ended, in their order.

    First those that start no Ray, two at a time. Then those that do, one at a time, and beside them what
    is long, waits for nobody and gives way.
    """
    rayed = [suite for suite in suites if suite.starts_ray]
    aside = [suite for suite in suites if rayed and suite.name in ASIDE]
    others = [suite for suite in suites if suite not in rayed and suite not in aside]
    gentle = [replace(suite, gently=("nice", "-n", "19")) for suite in aside]
    with ThreadPoolExecutor(2) as pool, runner:
        outcomes = list(pool.map(partial(runner.run, live=False), others))
        waiting = pool.submit(lambda: [runner.run(suite, live=False) for suite in gentle])
        outcomes += [runner.run(suite, live=True) for suite in rayed]
        outcomes += waiting.result()
    names = [suite.name for suite in suites]
    return sorted(outcomes, key=lambda outcome: names.index(outcome.name))


def run_each(suites: list[Suite], runner: Runner) -> list[Outcome]:
    """Run suites one after another."""
    with runner:
        return [runner.run(suite, live=True) for suite in suites]


def counts(result: Path) -> str:
    """Sum up a JUnit file as `12 tests, 1 failed, 2 skipped`."""
    suite = ET.parse(result).getroot().find("testsuite")  # noqa: S314 -- pytest wrote it just now
    if suite is None:
        return "no tests"
    number = {key: int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")}
    failed = number["failures"] + number["errors"]
    parts = [f"{number['tests']} tests"]
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{number['skipped']} skipped"] if number["skipped"] else []
    return ", ".join(parts)


def report(outcomes: list[Outcome], took_s: float) -> None:
    """Print a table of the suites and their seconds, and of the whole run's."""
    print(f"\n{'suite':<12}{'seconds':>9}  result")
    for outcome in outcomes:
        mark = "ok" if outcome.passed else "FAILED"
        print(f"{outcome.name:<12}{outcome.took_s:>9.1f}  {mark:<7} {outcome.verdict}")
    print(f"{'all':<12}{took_s:>9.1f}", flush=True)


def leave(number: int, _frame: FrameType | None) -> NoReturn:
    """End as Ctrl-C does when somebody asks politely: only the first time, so that ending is not cut off."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def main(arguments: list[str]) -> int:
    """Run the suites that the arguments name; 0 if all passed."""
    signal.signal(signal.SIGTERM, leave)
    soak = arguments == ["--soak"]
    known = soak_suites() if soak else test_suites()
    wanted = known if soak or not arguments else [suite for suite in known if suite.name in arguments]
    unknown = set() if soak else set(arguments) - {suite.name for suite in known}
    if unknown:
        print(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(suite.name for suite in known)}")
        return 2
    if any(suite.python == PURE for suite in wanted):
        refuse_impure()
    began_s = time.monotonic()
    runner = Runner(SOAK_LIMIT_S if soak else TESTS_LIMIT_S)
    outcomes = run_each(wanted, runner) if soak or len(wanted) == 1 else run_all(wanted, runner)
    report(outcomes, time.monotonic() - began_s)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
