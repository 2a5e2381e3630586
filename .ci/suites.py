"""Run the test suites one after another, each in a process of its own, and print the seconds of each.

python .ci/suites.py               every suite
python .ci/suites.py lm rag        some
python .ci/suites.py --soak        the long runs

A suite is a folder of tests/, or `house` for the files directly in tests/. `pure` is tests/placement once
more, in an environment that has neither Ray nor torch. Exits 1 if any suite failed, after all have run.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parent.parent
FULL = ROOT / ".venv/bin/python"
PURE = ROOT / ".venv-pure/bin/python"

ORDER = ("pure", "placement", "house", "lm", "rag", "web", "cli", "actors", "jobs", "notebooks")
ABSENT_IN_PURE = ("ray", "torch", "numpy", "transformers", "qdrant_client", "qdrant_edge")
TESTS_LIMIT_S = 40 * 60.0
SOAK_LIMIT_S = 4 * 3600.0

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "token",  # left unset, it depends on whether a token file lies about
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Suite:
    """A named run of pytest."""

    name: str
    python: Path
    arguments: tuple[str, ...]


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
        "pure": ["tests/placement"],
        "house": sorted(f"tests/{path.name}" for path in tests.glob("test_*.py")),
    }
    for path in tests.glob("*/**/test_*.py"):
        folder = path.relative_to(tests).parts[0]
        targets[folder] = [f"tests/{folder}"]
    names = [name for name in ORDER if targets.get(name)] + sorted(targets.keys() - set(ORDER))
    return [Suite(name, PURE if name == "pure" else FULL, tuple(targets[name])) for name in names]


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


def run(suite: Suite, limit_s: float) -> Outcome:
    """Run one suite; past its limit, its whole process group is ended."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.xml"
        began_s = time.monotonic()
        process = subprocess.Popen(
            [suite.python, "-m", "pytest", "-q", f"--junitxml={result}", *suite.arguments],
            cwd=ROOT,
            env=os.environ | ENVIRONMENT,
            start_new_session=True,
        )
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Outcome(suite.name, passed=False, verdict=f"not done in {limit_s:.0f} s", took_s=limit_s)
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGINT)
            process.wait()
            raise
        took_s = time.monotonic() - began_s
        return Outcome(
            suite.name, status == 0, counts(result) if result.exists() else f"exit {status}", took_s
        )


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


def report(outcomes: list[Outcome]) -> None:
    """Print a table of the suites and their seconds."""
    print(f"\n{'suite':<12}{'seconds':>9}  result")
    for outcome in outcomes:
        mark = "ok" if outcome.passed else "FAILED"
        print(f"{outcome.name:<12}{outcome.took_s:>9.1f}  {mark:<7} {outcome.verdict}")
    print(f"{'all':<12}{sum(outcome.took_s for outcome in outcomes):>9.1f}", flush=True)


def main(arguments: list[str]) -> int:
    """Run the suites that the arguments name; 0 if all passed."""
    soak = arguments == ["--soak"]
    known = soak_suites() if soak else test_suites()
    wanted = known if soak or not arguments else [suite for suite in known if suite.name in arguments]
    unknown = set() if soak else set(arguments) - {suite.name for suite in known}
    if unknown:
        print(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(suite.name for suite in known)}")
        return 2
    left_s = SOAK_LIMIT_S if soak else TESTS_LIMIT_S
    outcomes = []
    for suite in wanted:
        print(f"\n== {suite.name}", flush=True)
        if suite.name == "pure":
            refuse_impure()
        outcomes.append(run(suite, max(1.0, left_s)))
        left_s -= outcomes[-1].took_s
    report(outcomes)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
