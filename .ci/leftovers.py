"""End and list the processes that a CI run has left behind; exit 1 if there are any.

python .ci/leftovers.py RUN_ID

A process belongs to the run if its environment says TIERCE_CI_RUN=RUN_ID, so another lab on the same machine
is never touched. Call it without that variable, or it finds itself.
"""

import os
import signal
import sys
import time

import psutil

GRACE_S = 15.0  # Ray's own processes notice within a few seconds that their raylet is gone


def belonging_to(run_id: str) -> dict[int, str]:
    """Command line of every living process of the run, by process id."""
    return {
        each.pid: " ".join(each.info["cmdline"] or ())
        for each in psutil.process_iter(["environ", "cmdline"])
        if (each.info["environ"] or {}).get("TIERCE_CI_RUN") == run_id
    }


def end(process_id: int) -> None:
    """Kill one process; one that has just ended is fine."""
    try:
        os.kill(process_id, signal.SIGKILL)
    except ProcessLookupError:
        return


def main(run_id: str) -> int:
    """Wait a little for the run's processes to go by themselves, then end and list the rest."""
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
