"""What callers hear of their requests, each of them exactly one end. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from placement.errors import TierceError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from actors.lm.request import Delta
    from actors.lm.sequence import Caller


class Event(NamedTuple):
    """What a caller hears; `last` ends its request, and an error always does."""

    caller: Caller
    told: Delta | TierceError
    last: bool


class Delivery:
    """The callers that wait to hear something. Any thread may call any method.

    A caller is `opened` once and hears nothing more after its last event, whoever sends it: the decode thread
    or, when that one is stuck, the watchdog.
    """

    def __init__(self) -> None:
        #: a dict, because taking a key out of one is atomic
        self._open: dict[Caller, None] = {}

    def opened(self, caller: Caller) -> None:
        self._open[caller] = None

    def closed(self, caller: Caller) -> None:
        """Tell nothing more to a caller that has left."""
        self._open.pop(caller, None)

    @property
    def waiting(self) -> int:
        return len(self._open)

    def send(self, events: Iterable[Event]) -> None:
        """Hand each event loop all of its events in one call."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Event]] = {}
        for event in events:
            known = event.caller in self._open
            if event.last:
                known = self._open.pop(event.caller, self) is None
            if known:
                by_loop.setdefault(event.caller.loop, []).append(event)
        for loop, told in by_loop.items():
            try:
                loop.call_soon_threadsafe(_hand_out, told)
            except RuntimeError:  # the loop is closed: nobody waits for these
                for event in told:
                    event.caller.cancelled = True

    def end_all(self, error: Callable[[], TierceError]) -> None:
        """End everybody who waits, each with an `error` of its own."""
        self.send([Event(caller, error(), last=True) for caller in self._open.copy()])


def _hand_out(events: list[Event]) -> None:
    for event in events:
        event.caller.queue.put_nowait(event.told)
