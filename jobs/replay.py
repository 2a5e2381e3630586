"""Play a log of asks, or a workload of the literature, under our policy and under the well-known ones.

python jobs/replay.py TRACE.jsonl|--workload NAME [--seed N] [--asks N] [--slots 8,16] [--plot FILE] [--json]
ray job submit --working-dir . -- python jobs/replay.py --workload zipf-1.0
"""

import sys

from actors.cli.app import run

if __name__ == "__main__":
    run(["replay", *sys.argv[1:]])
