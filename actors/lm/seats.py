"""Who sits in which slot, and who is using it. Every method is atomic; any thread may call. No torch."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.lm.request import SlotUse
from placement.errors import Busy, Cold, WorldError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class Seat:
    """An item in a slot. Only an open seat takes new requests; `leases` are those in flight."""

    slot: int
    open: bool = False
    ready: bool = False
    leases: int = 0
    used_s: float = 0.0


class Seats:
    """The seats of an engine with `slots` slots, numbered from 1. `clock` returns monotonic seconds."""

    def __init__(self, slots: int, clock: Callable[[], float]) -> None:
        self.slots = slots
        self._clock = clock
        self._lock = threading.Lock()
        self._seats: dict[str, Seat] = {}
        self._hits: dict[str, int] = {}
        self._activations: dict[str, int] = {}

    def reserve(self, item: str) -> int:
        """Take a free slot for `item`, not attached yet. Raises WorldError LM001 if there is none."""
        with self._lock:
            free = set(range(1, self.slots + 1)) - {seat.slot for seat in self._seats.values()}
            if not free:
                held = ", ".join(sorted(self._seats))
                raise WorldError(
                    "LM001", f"no free slot for {item}: {self.slots} of {self.slots} taken by {held}"
                )
            self._seats[item] = Seat(min(free))
            return self._seats[item].slot

    def open(self, item: str) -> None:
        """Let requests in: the slot is filled and proven. Counts one activation."""
        with self._lock:
            seat = self._seats[item]
            seat.ready = seat.open = True
            seat.used_s = self._clock()
            self._activations[item] = self._activations.get(item, 0) + 1

    def slot(self, item: str) -> int | None:
        """Return the slot of `item` if it is attached, open or not."""
        with self._lock:
            seat = self._seats.get(item)
            return seat.slot if seat is not None and seat.ready else None

    def admit(self, item: str, *, new_requests: bool) -> None:
        """Allow or stop new requests to an attached item; those in flight go on. Raises Cold if absent."""
        with self._lock:
            self._ready(item).open = new_requests

    def lease(self, item: str) -> int:
        """Hold the slot of `item` for one request; return it. Raises Cold if not attached and open."""
        with self._lock:
            seat = self._ready(item)
            if not seat.open:
                raise Cold("TRC010", f"{item} is leaving this engine and takes no new request")
            seat.leases += 1
            self._hits[item] = self._hits.get(item, 0) + 1
            return seat.slot

    def release(self, item: str) -> None:
        """End one lease."""
        with self._lock:
            seat = self._seats[item]
            seat.leases -= 1
            seat.used_s = self._clock()

    def leave(self, item: str) -> int:
        """Give up the seat of `item`; return its slot. Raises Busy while leases are held, Cold if absent."""
        with self._lock:
            seat = self._seats.get(item)
            if seat is None:
                raise Cold("TRC010", f"{item} has no slot in this engine")
            if seat.leases:
                raise Busy("TRC011", f"{item} answers {seat.leases} requests")
            del self._seats[item]
            return seat.slot

    def uses(self) -> dict[str, SlotUse]:
        """Return every attached item with its use up to now; an item in use is idle for 0 seconds."""
        with self._lock:
            now_s = self._clock()
            return {
                item: SlotUse(
                    seat.leases,
                    0.0 if seat.leases else now_s - seat.used_s,
                    self._hits.get(item, 0),
                    self._activations[item],
                )
                for item, seat in self._seats.items()
                if seat.ready
            }

    def _ready(self, item: str) -> Seat:
        seat = self._seats.get(item)
        if seat is None or not seat.ready:
            raise Cold("TRC010", f"{item} has no slot in this engine")
        return seat
