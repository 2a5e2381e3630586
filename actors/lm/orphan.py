"""A child process that does not outlive its parent, however that one ends."""

from __future__ import annotations

import os
import threading
import time

POLL_S = 0.5


def end_with(parent: int) -> None:
    """Have this process end soon after the process `parent`, of which it is a child, is gone."""
    threading.Thread(target=_watch, args=(parent,), name="end with parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(1)
