"""Tokens to text as they come: whole characters only, and never a part of a stop text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BROKEN = "\ufffd"
#: A character has at most four bytes, so at most three of them can be waiting for the rest.
MAX_BROKEN = 3


class Text:
    """The text of one answer. `push` each token, `end` once; `stopped` tells that a stop text was reached."""

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...]) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stops = stops
        #: tokens that are still decoded: some already told (for the spaces between words), then new ones
        self._window: list[int] = []
        self._told = 0
        self._sent = 0
        self._held = ""

    def push(self, token: int) -> str:
        """Add a token; return the text that is certain now: no part of a character or of a stop text."""
        self._window.append(token)
        text = self._decode(self._window)
        whole = text
        while whole.endswith(BROKEN) and len(text) - len(whole) < MAX_BROKEN:
            whole = whole[:-1]
        new = whole[self._sent :]
        self._sent = max(self._sent, len(whole))
        if len(whole) == len(text):
            self._window = self._window[self._told :]
            self._told = len(self._window)
            self._sent = len(self._decode(self._window))
        return self._release(new)

    def end(self) -> str:
        """Return what was held back, now that no token follows; an incomplete character becomes U+FFFD."""
        rest = self._release("" if self.stopped else self._decode(self._window)[self._sent :])
        return rest if self.stopped else rest + self._held

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _release(self, new: str) -> str:
        self._held += new
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped = True
            safe = min(found)
        else:
            safe = len(self._held) - max((_overlap(self._held, stop) for stop in self._stops), default=0)
        out, self._held = self._held[:safe], self._held[safe:]
        return out


def _overlap(text: str, stop: str) -> int:
    """Return how many of the last characters of `text` may be the beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
