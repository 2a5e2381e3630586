"""Python work beside decoding, in slices: it holds the interpreter, which every step needs too."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

#: What a thread computes at a time while others decode, and the share of all time that it has then.
SLICE_S = 0.001
SHARE = 0.2
#: The longest rest without a look whether anybody decodes still.
REST_S = 0.02


@contextmanager
def sliced(
    busy: Callable[[], bool],
    wait: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.thread_time,
) -> Iterator[None]:
    """Have this thread rest after each SLICE_S of the block while it is `busy` elsewhere.

    Works for code that knows nothing of it: the interpreter tells of each Python call, and a slice ends with
    the first one that comes late. Only a single call into C can take longer. A rest is over as soon as nobody
    is busy. `wait` rests for some seconds and returns whether that is enough; `clock` gives the seconds that
    this thread has computed. A profiler of this thread is set aside meanwhile.
    """
    began_s = clock()

    def look(_frame: FrameType, event: str, _of: Any) -> None:
        nonlocal began_s
        if event != "call":
            return
        took_s = clock() - began_s
        if took_s < SLICE_S:
            return
        left_s = took_s * (1 / SHARE - 1)
        while left_s > 0 and busy() and not wait(min(left_s, REST_S)):
            left_s -= REST_S
        began_s = clock()

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)
