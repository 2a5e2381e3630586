"""The command line in processes of its own, as a person or a script runs it."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-c", "import tierce; tierce.main()"]


def environment(home: Path, **more: str) -> dict[str, str]:
    """An environment with the labs of `home` alone, and the `python` that runs the tests.

    It keeps TIERCE_CI_RUN, by which `.ci/leftovers.py` finds what a run has left behind.
    """
    ours = {name for name in os.environ if name.startswith(("RAY_", "TIERCE_"))} - {"TIERCE_CI_RUN"}
    bare = {name: value for name, value in os.environ.items() if name not in ours}
    path = os.pathsep.join([str(Path(sys.executable).parent), bare.get("PATH", "")])
    return bare | {"PATH": path, "TIERCE_HOME": str(home), "NO_COLOR": "1"} | more


def tierce(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    command = [*COMMAND, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment(home), check=False, capture_output=True, text=True
    )


def session(leader: int) -> list[int]:
    """The processes of the session that a process leads or led."""
    found = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError):  # it has ended meanwhile
            if os.getsid(pid) == leader:
                found.append(pid)
    return found
