"""Take a lab down; the Ray that the job runs on stays.

ray job submit --working-dir . -- python jobs/down.py [--lab NAME]
"""

import sys

from actors.cli.app import run

if __name__ == "__main__":
    run(["down", *sys.argv[1:]])
