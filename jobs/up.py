"""Bring up the lab of a file on a running Ray; the lab outlives the job.

ray job submit --working-dir . -- python jobs/up.py [FILE] [--json]
"""

import sys

from actors.cli.app import run

if __name__ == "__main__":
    run(["up", *sys.argv[1:]])
