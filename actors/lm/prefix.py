"""KV rows of sequences, and what they share: nothing yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from actors.lm.spans import Spans


class Prefixes:
    """Spans of KV rows for sequences; `copy` copies rows (source, target, count). One thread."""

    def __init__(
        self, spans: Spans, copy: Callable[[int, int, int], None], grid: int, clock: Callable[[], float]
    ) -> None:
        self._spans = spans
        self._copy = copy
        self._grid = grid
        self._clock = clock
        self._rows: dict[int, int] = {}
        self.hits = 0
        self.hit_tokens = 0
        self.kept_rows = 0

    @property
    def used(self) -> int:
        return self._spans.used

    def take(self, content: str, tokens: Sequence[int], rows: int) -> tuple[int, int] | None:
        """Return the first of `rows` rows and how many tokens are written there, None without room."""
        del content, tokens
        row = self._spans.take(rows)
        if row is None:
            return None
        self._rows[row] = rows
        return row, 0

    def extend(self, row: int, written: int) -> None:
        """Note that `written` tokens of the span at `row` are written."""

    def give(self, row: int, tokens: list[int], computed_as_prompt: int) -> None:
        """Free the span at `row`."""
        del tokens, computed_as_prompt
        self._spans.free(row, self._rows.pop(row))

    def forget(self, content: str) -> None:
        """Keep nothing of `content`."""
