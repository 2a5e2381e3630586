"""Tokens to text as they come: whole characters only, and never a part of a stop text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BROKEN = "\ufffd"
#: A character has at most four bytes, so at most three of them can be waiting for the rest.
MAX_BROKEN = 3
#: So many told tokens are decoded along with new ones before the window begins anew: that costs a second
#: decode, and each of them a little in every decode.
MAX_TOLD = 4


class Text:
    """The text of one answer: `push` each token, `end` once.

    `stopped` tells that the answer is over: by one of the tokens `ends`, which gives no text, or by a stop
    text, which is not told, and nor is what follows it.
    """

    def __init__(
        self, tokenizer: Tokenizer, stops: tuple[str, ...], ends: frozenset[int] = frozenset()
    ) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stops = stops
        self._ends = ends
        self._cut = False
        #: tokens that are still decoded: some already told (for the spaces between words), then new ones
        self._window: list[int] = []
        self._told = 0
        #: what was told of the window
        self._shown = ""
        self._held = ""

    def push(self, token: int) -> str:
        """Add a token; return the text that is certain now: no part of a character or of a stop text."""
        if token in self._ends:
            self.stopped = True
            return ""
        self._window.append(token)
        text = self._decode()
        if not text.startswith(self._shown):
            # Some tokenizers take a whole run of byte tokens for broken until its last character is whole.
            if len(self._window) - self._told <= MAX_BROKEN:
                return ""
            text = self._rest()
        whole = text
        while whole.endswith(BROKEN) and len(text) - len(whole) < MAX_BROKEN:
            whole = whole[:-1]
        new = whole[len(self._shown) :]
        if new:
            self._shown = whole
        if len(whole) == len(text):
            if self._told >= MAX_TOLD:
                self._window = self._window[self._told :]
                self._shown = self._decode()
            self._told = len(self._window)
        return self._release(new) if self._stops else new

    def end(self) -> str:
        """Return what was held back, now that no token follows; an incomplete character becomes U+FFFD."""
        if self._cut:
            return ""
        text = self._decode()
        if not text.startswith(self._shown):
            text = self._rest()
        return self._release(text[len(self._shown) :]) + self._held

    def _decode(self) -> str:
        return str(self._tokenizer.decode(self._window, skip_special_tokens=True))

    def _rest(self) -> str:
        """Begin the window anew at the first token that is not told, and return its text."""
        self._window, self._told, self._shown = self._window[self._told :], 0, ""
        return self._decode()

    def _release(self, new: str) -> str:
        self._held += new
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped = self._cut = True
            out, self._held = self._held[: min(found)], ""
            return out
        safe = len(self._held) - max((_overlap(self._held, stop) for stop in self._stops), default=0)
        out, self._held = self._held[:safe], self._held[safe:]
        return out


def _overlap(text: str, stop: str) -> int:
    """Return how many of the last characters of `text` may be the beginning of `stop`."""
    tail = text[-(len(stop) - 1) :] if len(stop) > 1 else ""
    at = tail.find(stop[0])
    while at >= 0 and not stop.startswith(tail[at:]):
        at = tail.find(stop[0], at + 1)
    return len(tail) - at if at >= 0 else 0
