"""Who sits in which slot, and who is using it. Every method is atomic; any thread may call. No torch."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from actors.lm.request import SlotUse
from placement.errors import Busy, Cold, WorldError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Lease(NamedTuple):
    """The slot that a request holds, and the digest of what is in it."""

    slot: int
    content: str


@dataclass(slots=True)
class Seat:
    """An item in a slot. Only an open seat takes new requests; `leases` are those in flight.

    `nbytes` is what it takes beside the slot, `earlier` how many requests it had had when it came.
    """

    slot: int
    content: str = ""
    kind: str = "slot"
    nbytes: int = 0
    open: bool = False
    ready: bool = False
    leases: int = 0
    used_s: float = 0.0
    earlier: int = 0


class Seats:
    """The seats of an engine with `slots` slots, numbered from 1. `clock` returns monotonic seconds."""

    def __init__(self, slots: int, clock: Callable[[], float]) -> None:
        self.slots = slots
        self._clock = clock
        self._lock = threading.Lock()
        self._seats: dict[str, Seat] = {}
        self._hits: dict[str, int] = {}
        self._activations: dict[str, int] = {}
        #: the items that somebody fills or empties now; signalled when one of them is done
        self._changing: set[str] = set()
        self._changed = threading.Condition(self._lock)

    @contextmanager
    def change(self, item: str) -> Iterator[None]:
        """Be the only one who fills or empties the seat of `item`; others of it wait, other items do not."""
        with self._changed:
            while item in self._changing:
                self._changed.wait()
            self._changing.add(item)
        try:
            yield
        finally:
            with self._changed:
                self._changing.discard(item)
                self._changed.notify_all()

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

    def open(self, item: str, content: str = "", kind: str = "slot", nbytes: int = 0) -> None:
        """Let requests in: the slot is filled with `content` and proven. Counts one activation."""
        with self._lock:
            seat = self._seats[item]
            seat.content, seat.kind, seat.nbytes = content, kind, nbytes
            seat.ready = seat.open = True
            seat.used_s, seat.earlier = self._clock(), self._hits.get(item, 0)
            self._activations[item] = self._activations.get(item, 0) + 1

    def reopen(self, item: str) -> tuple[int, str] | None:
        """Let requests in again if `item` is attached, open or not; return its slot and kind, else None."""
        with self._lock:
            seat = self._seats.get(item)
            if seat is None or not seat.ready:
                return None
            seat.open = True
            return seat.slot, seat.kind

    def admit(self, item: str, *, new_requests: bool) -> None:
        """Allow or stop new requests to an attached item; those in flight go on. Raises Cold if absent."""
        with self._lock:
            self._ready(item).open = new_requests

    def lease(self, item: str) -> Lease:
        """Hold the slot of `item` for one request. Raises Cold if not attached and open."""
        with self._lock:
            seat = self._ready(item)
            if not seat.open:
                raise Cold("TRC010", f"{item} is leaving this engine and takes no new request")
            seat.leases += 1
            self._hits[item] = self._hits.get(item, 0) + 1
            return Lease(seat.slot, seat.content)

    def release(self, item: str) -> None:
        """End one lease."""
        with self._lock:
            seat = self._seats[item]
            seat.leases -= 1
            seat.used_s = self._clock()

    def vacate(self, item: str) -> int:
        """Take nobody in any more and return the slot, which is not free before `leave`.

        Raises Busy while leases are held, Cold if there is no such seat.
        """
        with self._lock:
            seat = self._seats.get(item)
            if seat is None:
                raise Cold("TRC010", f"{item} has no slot in this engine")
            if seat.leases:
                raise Busy("TRC011", f"{item} answers {seat.leases} requests")
            seat.ready = seat.open = False
            return seat.slot

    def leave(self, item: str) -> None:
        """Free the slot of `item`, which was vacated and emptied."""
        with self._lock:
            del self._seats[item]

    def states(self) -> dict[str, str]:
        """Return whether each seat is being filled (or emptied), open or closed, by item."""
        with self._lock:
            return {
                item: "filling" if not seat.ready else "open" if seat.open else "closed"
                for item, seat in self._seats.items()
            }

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
                    seat.nbytes,
                    seat.earlier,
                )
                for item, seat in self._seats.items()
                if seat.ready
            }

    def _ready(self, item: str) -> Seat:
        seat = self._seats.get(item)
        if seat is None or not seat.ready:
            raise Cold("TRC010", f"{item} has no slot in this engine")
        return seat
