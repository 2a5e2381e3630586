"""CI's own scripts, tried with fakes: what a signal ends, and in which order is printed what was said."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.waiting import until

ROOT = Path(__file__).resolve().parent.parent
#: a shell that hears Ctrl-C, even where whoever runs the tests ignores it
HEARS = """import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def load_suites():
    """Return .ci/suites.py as a module."""
    spec = importlib.util.spec_from_file_location("suites", ROOT / ".ci/suites.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["suites"] = module
    spec.loader.exec_module(module)
    return module


suites = load_suites()


def script(path, text):
    """Write an executable script of the shell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def pid_in(path):
    """Return the process id that a fake has written down, None while it has not."""
    text = path.read_text() if path.exists() else ""
    return int(text) if text.endswith("\n") else None


def is_over(pid):
    """Tell whether a process has ended."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def run(tmp_path):
    """CI's run in a tree of fakes, started: its tests and its checks go on until somebody ends them."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / "tmp").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    script(
        tmp_path / "bin/make",
        f"""for last; do :; done
[ "$last" = install ] && exit 0
echo $$ >{tmp_path}/$last.pid
exec sleep 600""",
    )
    bash = shutil.which("bash")
    process = subprocess.Popen(
        [sys.executable, "-c", HEARS, bash, str(tmp_path / ".ci/run")],
        env=os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "TMPDIR": str(tmp_path / "tmp")},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until(lambda: pid_in(tmp_path / "test.pid") and pid_in(tmp_path / "check.pid"))
    yield process
    process.kill()
    process.communicate()
    for name in ("test", "check"):
        if not is_over(pid := pid_in(tmp_path / f"{name}.pid")):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("signalled", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_broken_off_ends_its_tests_and_its_checks(run, tmp_path, signalled):
    """Ctrl-C (of the terminal's whole process group) or SIGTERM leaves no process and no file behind."""
    os.killpg(run.pid, signalled)
    run.communicate(timeout=60)
    assert run.returncode == 128 + signalled
    until(lambda: all(is_over(pid_in(tmp_path / f"{name}.pid")) for name in ("test", "check")), 10)
    assert list((tmp_path / "tmp").iterdir()) == []


def fake(path, text):
    """Return a suite whose pytest is a script."""
    return suites.Suite(path.name, script(path, text), ())


def names_printed(capsys):
    """Return the names of the suites in the order in which they were printed."""
    return [line[3:] for line in capsys.readouterr().out.splitlines() if line.startswith("== ")]


def test_no_suite_waits_for_the_screen(tmp_path, capsys):
    """While a live suite runs, those beside it end one after another; what they said comes after it."""
    live = fake(tmp_path / "live", f"while ! [ -e {tmp_path}/second.done ]; do sleep 0.05; done")
    aside = [fake(tmp_path / name, f"echo {name} said; touch $0.done") for name in ("first", "second")]
    runner = suites.Runner(60)
    with suites.ThreadPoolExecutor(1) as pool, runner:
        waiting = pool.submit(lambda: [runner.run(suite, live=False) for suite in aside])
        outcome = runner.run(live, live=True)
        told = [outcome, *waiting.result()]
    assert [each.verdict for each in told] == ["exit 0"] * 3
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line] == [
        "== live",
        "== first",
        "first said",
        "== second",
        "second said",
    ]


def test_what_was_kept_is_printed_between_live_suites(tmp_path, capsys):
    """What a suite said that ended beside a live one stands before the next live one."""
    kept, live, last = (fake(tmp_path / name, "exit 0") for name in ("kept", "live", "last"))
    with suites.Runner(60) as runner:
        with runner._screen:  # noqa: SLF001 -- as a live suite holds it
            runner.run(kept, live=False)
        runner.run(live, live=True)
        runner.run(last, live=True)
    assert names_printed(capsys) == ["live", "kept", "last"]


def broken_off(tmp_path, text):
    """Run a suite, break off the run once it goes on, and return its process id when that is over."""
    suite = fake(tmp_path / "suite", f"{text}\necho $$ >{tmp_path}/pid\nwhile :; do sleep 0.1; done")
    runner = suites.Runner(60)
    with suites.ThreadPoolExecutor(1) as pool, suppress(KeyboardInterrupt), runner:
        pool.submit(runner.run, suite, live=False)
        until(lambda: pid_in(tmp_path / "pid"))
        raise KeyboardInterrupt
    return pid_in(tmp_path / "pid")


def test_a_suite_that_is_interrupted_may_end_what_it_began(tmp_path):
    """It hears SIGINT, as pytest does, which then tears its fixtures down."""
    pid = broken_off(tmp_path, f"trap 'echo torn down >{tmp_path}/told; exit 2' INT")
    assert (tmp_path / "told").read_text() == "torn down\n"
    assert is_over(pid)


def test_a_suite_that_does_not_end_is_killed(tmp_path, monkeypatch):
    """Whatever ignores the interrupt has so much time and no more."""
    monkeypatch.setattr(suites, "GRACE_S", 0.3)
    assert is_over(broken_off(tmp_path, "trap '' INT"))


def test_sigterm_ends_the_suites_as_ctrl_c_does(tmp_path):
    """Whoever ends the runner politely, twice even, ends what it runs."""
    fake(
        tmp_path / "suite",
        f"trap 'sleep 0.5; touch {tmp_path}/told; exit 2' INT\necho $$ >{tmp_path}/pid\n"
        "while :; do sleep 0.1; done",
    )
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / ".ci")!r})
import suites
from pathlib import Path
suites.test_suites = lambda: [suites.Suite("suite", Path({str(tmp_path / "suite")!r}), ())]
sys.exit(suites.main([]))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    until(lambda: pid_in(tmp_path / "pid"))
    process.terminate()
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert (tmp_path / "told").exists()
    assert is_over(pid_in(tmp_path / "pid"))
