"""What an engine answered of late: who, when and for how long, told with the beats until it is heard."""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from placement.errors import Cold

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actors.lm.request import Request

#: A use is told for so long after its end: a beat that got lost or came late loses nothing.
TOLD_S = 10.0
#: The most uses, and refused tries, that are kept.
KEPT = 4000


@dataclass(frozen=True, slots=True)
class Use:
    """One answered request: the `number`-th of this engine, first tried at `t` (seconds since the epoch).

    It waited `waited_s` for its adapter, 0 if that was there, and then held it for `busy_s`.
    """

    number: int
    t: float
    item: str
    waited_s: float
    busy_s: float


class Uses:
    """The uses of one engine. A request that finds no slot is tried again under the same id."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._ended: deque[tuple[float, Use]] = deque(maxlen=KEPT)
        self._cold: dict[str, tuple[float, float]] = {}

    @contextmanager
    def of(self, request: Request) -> Iterator[None]:
        """Note the use of an adapter by the answer that is given inside; of the bare base there is none."""
        began_s = time.monotonic()
        tried_s, t = self._cold.pop(request.id, (began_s, time.time()))
        try:
            yield
        except Cold:
            while len(self._cold) >= KEPT:
                del self._cold[next(iter(self._cold))]
            self._cold[request.id] = (tried_s, t)
            raise
        finally:
            if request.item and request.id not in self._cold:
                ended_s = time.monotonic()
                use = Use(next(self._numbers), t, request.item, began_s - tried_s, ended_s - began_s)
                self._ended.append((ended_s, use))

    def told(self, heard: tuple[int, int] = (0, 0)) -> tuple[Use, ...]:
        """Return the uses that ended within the last TOLD_S.

        Those up to the number that was `heard` of this process are left out: (its pid, the number).
        """
        pid, number = heard
        known = number if pid == os.getpid() else 0
        while self._ended and time.monotonic() - self._ended[0][0] > TOLD_S:
            self._ended.popleft()
        return tuple(use for _, use in self._ended if use.number > known)
