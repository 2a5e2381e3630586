"""Measure Tierce beside PEFT, transformers, plain copies and, if told, another server.

python jobs/bench.py activation|decode|churn|prefix|determinism|gpu|architectures|handle [--shape S|M]
ray job submit --working-dir . -- python jobs/bench.py decode
"""

import sys

from actors.cli.app import run

if __name__ == "__main__":
    run(["bench", *sys.argv[1:]])
