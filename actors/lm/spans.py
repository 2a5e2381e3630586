"""Contiguous spans of a number of rows."""

from __future__ import annotations

from bisect import insort


class Spans:
    """Contiguous spans of `capacity` rows, first fit. One thread."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        #: (start, size) of every gap, ordered by start; no two gaps touch
        self._gaps: list[tuple[int, int]] = [(0, capacity)]

    def take(self, size: int) -> int | None:
        """Return the first row of `size` free ones, None while no gap is large enough."""
        for index, (start, gap) in enumerate(self._gaps):
            if gap >= size:
                self._gaps[index : index + 1] = [(start + size, gap - size)] if gap > size else []
                self.used += size
                return start
        return None

    def free(self, start: int, size: int) -> None:
        """Give back a span that `take` returned."""
        insort(self._gaps, (start, size))
        self.used -= size
        merged: list[tuple[int, int]] = []
        for begin, gap in self._gaps:
            if merged and sum(merged[-1]) == begin:
                merged[-1] = (merged[-1][0], merged[-1][1] + gap)
            else:
                merged.append((begin, gap))
        self._gaps = merged
