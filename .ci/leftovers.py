"""End and list the processes that a CI run has left behind; exit 1 if there are any.

python .ci/leftovers.py RUN_ID

A process belongs to the run if its environment says TIERCE_CI_RUN=RUN_ID, so another lab on the same machine
is never touched. Linux only (/proc); elsewhere it says so. Call it without that variable, or it finds itself.
"""

import os
import signal
import sys
import time
from pathlib import Path

PROC = Path("/proc")
GRACE_S = 15.0  # Ray's own processes notice within a few seconds that their raylet is gone


def belonging_to(run_id: str) -> dict[int, str]:
    """Command line of every living process of the run, by process id."""
    marker = f"TIERCE_CI_RUN={run_id}".encode()
    found = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            if marker in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(folder.name)] = command.strip()
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # ended meanwhile, or another user's
            continue
    return found


def end(process_id: int) -> None:
    """Kill one process; one that has just ended is fine."""
    try:
        os.kill(process_id, signal.SIGKILL)
    except ProcessLookupError:
        return


def main(run_id: str) -> int:
    """Wait a little for the run's processes to go by themselves, then end and list the rest."""
    if not (PROC / "self/environ").exists():
        print("leftovers: not checked, there is no /proc here")
        return 0
    until_s = time.monotonic() + GRACE_S
    while (left := belonging_to(run_id)) and time.monotonic() < until_s:
        time.sleep(0.5)
    for process_id, command in left.items():
        print(f"leftovers: process {process_id} was still running: {command[:160]}")
        end(process_id)
    if not left:
        print("leftovers: no process of this run is left")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
