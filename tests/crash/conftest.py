import shutil
import tempfile
from pathlib import Path

import pytest

from tests.crash.points import available

POINTS = pytest.StashKey[dict[str, int]]()


def pytest_collection_modifyitems(items):
    """Where system calls cannot be watched, nothing is proven: say so. A fork runs no thread's code."""
    ours = [item for item in items if "tests/crash" in item.path.as_posix()]
    watched = available() if ours else True
    for item in ours:
        item.add_marker(pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"))
        if not watched:
            item.add_marker(pytest.mark.skip(reason="crash points are found by ptrace on Linux, x86-64"))


@pytest.fixture
def ram():
    """A directory in memory: kill -9 loses no page there either, and no disk is slow."""
    path = Path(tempfile.mkdtemp(prefix="tierce-crash-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def passed(request):
    """Take the crash points that a test has passed, for the sum at the end of the run."""
    found = request.config.stash.setdefault(POINTS, {})
    return lambda points: found.update({request.node.name: len(points)})


def pytest_terminal_summary(terminalreporter, config):
    """Say how many points were tried."""
    for name, count in config.stash.get(POINTS, {}).items():
        terminalreporter.write_line(f"{count:>5} crash points: {name}")
