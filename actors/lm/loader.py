"""Bringing images into slots beside decoding: one thread, and no more bytes a second than decoding spares."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

#: What a copy leaves of the memory's bandwidth to the steps beside it: a slot of 40 MB then takes 50 ms.
LOADING_NBYTES_PER_S = 800_000_000
#: The most that a copy moves before it asks its pace: half a millisecond of memory at full speed.
PIECE_NBYTES = 4 << 20

#: called with the bytes of each piece that was copied; returns when the next one may begin
Pace = Callable[[int], None]

T = TypeVar("T")


class Bucket:
    """Lets `nbytes_per_s` through on average; what went through is told after it has.

    `wait` sleeps for some seconds, `clock` returns monotonic seconds. One thread.
    """

    def __init__(
        self,
        nbytes_per_s: float,
        wait: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nbytes_per_s = nbytes_per_s
        self._wait = wait
        self._clock = clock
        #: when all that went through is paid for
        self._paid_s = float("-inf")

    def __call__(self, nbytes: int) -> None:
        """Wait until these bytes are paid for; what their copying took counts, idle time does not."""
        cost_s, now_s = nbytes / self._nbytes_per_s, self._clock()
        self._paid_s = max(self._paid_s, now_s - cost_s) + cost_s
        if self._paid_s > now_s:
            self._wait(self._paid_s - now_s)


class Loader:
    """Runs copies one after another on a thread of its own, each with a pace to keep to.

    The pace holds a copy back only while `busy` says that somebody decodes. Any thread may call.
    """

    def __init__(
        self,
        busy: Callable[[], bool],
        nbytes_per_s: float = LOADING_NBYTES_PER_S,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._busy = busy
        self._closing = threading.Event()
        self._wait = self._closing.wait if wait is None else wait
        self._bucket = Bucket(nbytes_per_s, self._wait, clock)
        self._thread = ThreadPoolExecutor(1, "loader")

    def load(self, copy: Callable[[Pace], T]) -> Future[T]:
        """Run `copy(pace)` after those before it; the future has what it returns or raises.

        `copy` calls `pace` after each piece of at most PIECE_NBYTES. Raises RuntimeError after `close`.
        """
        return self._thread.submit(partial(copy, self._pace))

    def rest(self, seconds: float) -> bool:
        """Hold a copy back for so long, or until `close`; return whether this closes."""
        self._wait(seconds)
        return self._closing.is_set()

    def close(self) -> None:
        """Take no more copies; those that wait end with CancelledError, the one that runs ends unpaced."""
        self._closing.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _pace(self, nbytes: int) -> None:
        if self._busy():
            self._bucket(nbytes)
