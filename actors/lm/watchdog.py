"""A watchdog: tells that a decoder has work and does not move. No torch."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: The least time without a move that counts as a stall, and how many times the median step it is at least.
STALL_S = 60.0
STALL_STEPS = 50
TICK_S = 1.0


class Watchdog:
    """Watches `moves`, a count that grows while work is being done, for as long as there is `work`.

    `tripped` is called once, with the seconds that nothing moved, when these pass `limit_s()`. Time is added
    up in ticks of its own: when the whole process was paused, that is no stall.
    """

    def __init__(
        self,
        work: Callable[[], bool],
        moves: Callable[[], int],
        limit_s: Callable[[], float],
        tripped: Callable[[float], None],
    ) -> None:
        #: seconds for which there has been work and no move
        self.stalled_s = 0.0
        self._work = work
        self._moves = moves
        self._limit_s = limit_s
        self._tripped = tripped
        self._seen = -1
        self._stop = threading.Event()

    def look(self, passed_s: float) -> bool:
        """Take note that `passed_s` have passed. Return whether it trips now."""
        moves = self._moves()
        if moves != self._seen or not self._work():
            self._seen, self.stalled_s = moves, 0.0
            return False
        self.stalled_s += min(passed_s, 2 * TICK_S)
        if self.stalled_s <= self._limit_s():
            return False
        self._tripped(self.stalled_s)
        return True

    def start(self) -> None:
        """Look once per tick in a thread of its own, until it trips or `stop`."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        looked_s = time.monotonic()
        while not self._stop.wait(TICK_S):
            now_s = time.monotonic()
            if self.look(now_s - looked_s):
                return
            looked_s = now_s
