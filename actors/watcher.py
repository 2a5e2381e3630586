"""The coordinator as an actor."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from typing import Any

import ray

from actors.coordinator import Coordinator
from actors.spec import LabSpec

KICK_S = 1.0


class Watcher(Coordinator):
    """A Coordinator that watches from its birth on, also when Ray has restarted it and nobody calls."""

    def __init__(self, spec: LabSpec) -> None:
        super().__init__(spec)
        me = ray.get_runtime_context().current_actor
        threading.Thread(target=self._kick, args=(me,), name="kick", daemon=True).start()

    def _kick(self, me: Any) -> None:
        """Call `watch` until it runs: just after a restart, Ray may send a call to the process that died."""
        while not self.watching:
            me.watch.remote()
            time.sleep(KICK_S)

    async def watch(self) -> None:
        """Watch; a coordinator that meets a fault of its own dies of it, and Ray starts another."""
        try:
            await super().watch()
        except Exception:
            traceback.print_exc()
            os.kill(os.getpid(), signal.SIGKILL)  # Ray restarts what was killed, not what has ended
            raise
