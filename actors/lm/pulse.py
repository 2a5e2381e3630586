"""The pulse of a decoder: how long its last steps took, and whether it still moves. No torch."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

#: Steps that are remembered.
WINDOW = 512


class Beat(NamedTuple):
    """A forward that has ended: when, after how long, and how many tokens of answers it gave."""

    at_s: float
    took_s: float
    tokens: int
    #: it computed one token of each sequence that answers, and no prompt
    decode: bool


class Pulse:
    """The last WINDOW forwards of a decoder. The decode thread adds, any thread reads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        #: counts whatever shows that the decode thread is not stuck
        self.moves = 0
        self.last_s = 0.0
        self._clock = clock
        self._beats: deque[Beat] = deque(maxlen=WINDOW)

    def add(self, took_s: float, tokens: int, *, decode: bool) -> None:
        """Remember a forward that ended now."""
        self.moves += 1
        self.last_s = took_s
        self._beats.append(Beat(self._clock(), took_s, tokens, decode))

    def decode_s(self, *shares: float) -> tuple[float, ...]:
        """Return quantiles of what the decode steps took, 0 without any: `decode_s(0.5, 0.99)`."""
        took = sorted(beat.took_s for beat in self._remembered() if beat.decode)
        return tuple(took[min(int(share * len(took)), len(took) - 1)] if took else 0.0 for share in shares)

    def tokens_per_s(self, window_s: float = 10.0) -> float:
        """Return the tokens of answers per second, over the last `window_s` or what is remembered of it."""
        now_s = self._clock()
        beats = [beat for beat in self._remembered() if now_s - beat.at_s <= window_s]
        if not beats:
            return 0.0
        began_s = beats[0].at_s - beats[0].took_s
        return sum(beat.tokens for beat in beats) / max(now_s - began_s, beats[0].took_s, 1e-9)

    def _remembered(self) -> list[Beat]:
        while True:
            try:
                return list(self._beats)
            except RuntimeError:  # a beat was added meanwhile
                continue
