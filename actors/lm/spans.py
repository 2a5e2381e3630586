"""Contiguous spans of a number of rows."""

from __future__ import annotations

from bisect import bisect_left


class Spans:
    """Contiguous spans of `capacity` rows, first fit. One thread."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        #: (start, size) of every gap, ordered by start; no two gaps touch
        self._gaps: list[tuple[int, int]] = [(0, capacity)]

    @property
    def gaps(self) -> tuple[tuple[int, int], ...]:
        """Return (start, size) of every gap, ordered by start; no two touch."""
        return tuple(self._gaps)

    def take(self, size: int) -> int | None:
        """Return the first row of `size` free ones, None while no gap is large enough."""
        for index, (start, gap) in enumerate(self._gaps):
            if gap >= size:
                self._shorten(index, size)
                return start
        return None

    def take_at(self, start: int, size: int) -> bool:
        """Take the rows from `start` if a gap begins there and has `size` of them; return whether it did."""
        index = bisect_left(self._gaps, (start, 0))
        if index == len(self._gaps) or self._gaps[index][0] != start or self._gaps[index][1] < size:
            return False
        self._shorten(index, size)
        return True

    def free(self, start: int, size: int) -> None:
        """Give back rows that were taken: a whole span, or a part of one."""
        self.used -= size
        index = bisect_left(self._gaps, (start, 0))
        first, last = index, index
        if last < len(self._gaps) and self._gaps[last][0] == start + size:
            size += self._gaps[last][1]
            last += 1
        if first and sum(self._gaps[first - 1]) == start:
            first -= 1
            size += start - self._gaps[first][0]
            start = self._gaps[first][0]
        self._gaps[first:last] = [(start, size)]

    def _shorten(self, index: int, size: int) -> None:
        start, gap = self._gaps[index]
        self._gaps[index : index + 1] = [(start + size, gap - size)] if gap > size else []
        self.used += size
