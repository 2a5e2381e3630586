"""Ask a role of a running lab.

ray job submit --working-dir . -- python jobs/ask.py ROLE QUESTION [--json]
"""

import sys

from actors.cli.app import run

if __name__ == "__main__":
    run(["ask", *sys.argv[1:]])
