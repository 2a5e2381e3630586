"""When an address that keeps failing may be tried again."""

from __future__ import annotations


class Breaker:
    """Lets calls through until `failures` in a row have failed, then one at a time, after a pause.

    The pause doubles with each further failure, up to `most_s`. Time is an argument: seconds that grow.
    """

    def __init__(self, failures: int = 3, first_s: float = 2.0, most_s: float = 60.0) -> None:
        self._failures = failures
        self._first_s = first_s
        self._most_s = most_s
        self._failed = 0
        self._shut_until_s = 0.0

    @property
    def shut(self) -> bool:
        """Whether calls are held back, but for one now and then."""
        return self._failed >= self._failures

    def enter(self, now_s: float) -> float:
        """Return 0 if a call may be made now, else the seconds until one may.

        Of an address that is held back, one caller is let through; the others wait for what it finds, or, if
        it never tells, for the next pause.
        """
        if not self.shut:
            return 0.0
        if now_s < self._shut_until_s:
            return self._shut_until_s - now_s
        self._shut_until_s = now_s + self._pause_s()
        return 0.0

    def passed(self) -> None:
        """Record that a call was answered."""
        self._failed = 0

    def failed(self, now_s: float) -> None:
        """Record that a call was not answered."""
        self._failed += 1
        if self.shut:
            self._shut_until_s = now_s + self._pause_s()

    def _pause_s(self) -> float:
        return min(self._most_s, self._first_s * 2.0 ** min(self._failed - self._failures, 16))
