"""Let roles of a running lab speak in turn.

ray job submit --working-dir . -- python jobs/roundtable.py QUESTION --role A --role B [--rounds N] [--json]
"""

import sys

from actors.cli.app import run

if __name__ == "__main__":
    run(["roundtable", *sys.argv[1:]])
