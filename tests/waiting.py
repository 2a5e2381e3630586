"""Waiting for the world: a condition is polled until it holds, or its time is over."""

import time
from collections.abc import Callable


def until(true: Callable[[], object], within_s: float = 90.0) -> None:
    """Poll a condition of the world under a deadline."""
    give_up = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up, "the condition did not come true in time"
        time.sleep(0.1)
