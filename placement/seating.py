"""Who has to go so that an item fits: the bookings of one policy pass."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from placement.messages import Command, Copy, Drop
from placement.plan import is_safe
from placement.pressure import leaving, left, spare
from placement.routes import next_leg
from placement.score import ranked, value
from placement.state import Item, Limits, Place, Spec, State


@dataclass(slots=True)
class Free:
    """What is left at a place: now, and once its leaving replicas are gone."""

    nbytes: int
    soon_nbytes: int
    seats: dict[str, int] = field(default_factory=dict)
    soon_seats: dict[str, int] = field(default_factory=dict)

    @classmethod
    def at(cls, state: State, place: Place, nbytes: int) -> "Free":
        room, shelf = state.rooms[place], state.shelves.get(place, {})
        free = cls(nbytes, nbytes + leaving(state, place))
        if room.seats:
            going = [item for item in shelf if state.replicas[item, place].phase == "leaving"]
            for base, count in room.seats.items():
                free.seats[base] = count - state.seated(place, base)
                free.soon_seats[base] = free.seats[base] + sum(
                    state.items[item].base == base for item in going
                )
        return free

    def fits_now(self, spec: Spec, *, seat: bool) -> bool:
        return spec.nbytes <= self.nbytes and (not seat or self.seats.get(spec.base, 0) > 0)

    def fits_soon(self, spec: Spec, *, seat: bool) -> bool:
        return spec.nbytes <= self.soon_nbytes and (not seat or self.soon_seats.get(spec.base, 0) > 0)


@dataclass(frozen=True, slots=True)
class Booking:
    """There is room now, or once `victims` and those already leaving are gone; `drained` is in use."""

    now: bool
    victims: tuple[Item, ...] = ()
    drained: Item | None = None


class Bookings:
    """What one policy pass has promised: no room twice, and nobody evicted for nothing.

    `ahead` of need there is less room, up to the high mark, and only surplus goes: what does not rest there.
    With a `margin` nobody goes but for who is worth so many times as much.
    """

    def __init__(
        self, state: State, now_s: float, limits: Limits, *, ahead: bool = False, margin: float = 0.0
    ) -> None:
        self._state = state
        self._ahead = ahead
        self._now_s = now_s
        self._limits = limits
        self._free: dict[Place, Free] = {}
        self._margin = margin
        self._ranks: dict[tuple[Place, bool], list[tuple[bool, float, float, Item]]] = {}
        #: places where somebody waits for promised room
        self.waiting: set[Place] = set()
        self._going: set[tuple[Item, Place]] = set()
        #: bases of which no seat at a place can be had
        self._full: set[tuple[Place, str]] = set()

    def is_closed(self, place: Place) -> bool:
        """Tell whether no seat of any base can be had at a place."""
        room = self._state.rooms.get(place)
        return room is not None and bool(room.seats) and self._full >= {(place, base) for base in room.seats}

    def book(self, item: Item, place: Place, before_s: float = math.inf, *, drains: bool = False) -> Booking:
        """Promise room for an item at a place that has a Room, evicting if there is no other way.

        Only what was last used before `before_s` is evicted. If nobody idle is enough, one that is in use is
        drained for who `drains`; what else has to go waits until that one is gone.
        """
        spec, seat = self._state.items[item], self._state.takes_seat(item, place)
        if seat and spec.base not in self._state.rooms[place].seats:
            return Booking(now=False)
        if place not in self._free:
            state, limits = self._state, self._limits
            nbytes = spare(state, place, limits) if self._ahead else left(state, place)
            self._free[place] = Free.at(state, place, nbytes)
        free = self._free[place]
        # what others were promised is not free, though it may not be needed yet
        fits = free.fits_soon(spec, seat=seat)
        now = fits and free.fits_now(spec, seat=seat)
        victims = () if fits else self._victims(spec, place, free, before_s)
        if victims is None:
            if seat and free.soon_seats.get(spec.base, 0) < 1:
                self._full.add((place, spec.base))
            drained = self._drained(spec, place, free) if drains else None
            if drained is not None:
                self.waiting.add(place)
                self._going.add((drained, place))
            return Booking(now=False, drained=drained)
        if not now:
            self.waiting.add(place)
        self._going |= {(victim, place) for victim in victims}
        freed = [self._state.items[victim] for victim in victims]
        free.soon_nbytes += sum(victim.nbytes for victim in freed) - spec.nbytes
        if now:
            free.nbytes -= spec.nbytes
        if seat:
            free.soon_seats[spec.base] -= 1
            for victim in freed:
                free.soon_seats[victim.base] = free.soon_seats.get(victim.base, 0) + 1
            if now:
                free.seats[spec.base] -= 1
        return Booking(now, victims)

    def in_line(self, place: Place, *, by_bytes: bool) -> tuple[Item, ...]:
        """Return who would have to leave a place for a want, who goes first at the front."""
        return tuple(self._candidates(place, math.inf, math.inf, by_bytes=by_bytes))

    def _victims(self, spec: Spec, place: Place, free: Free, before_s: float) -> tuple[Item, ...] | None:
        """Return whom to evict, least needed first, or None if all that may go is not enough."""
        nbytes_short = spec.nbytes - free.soon_nbytes
        seat = self._state.takes_seat(spec.item, place)
        seats_short = 1 - free.soon_seats.get(spec.base, 0) if seat else 0
        victims: list[Spec] = []
        by_bytes = seats_short <= 0
        bar = self._bar(spec, place, by_bytes=by_bytes)
        for item in self._candidates(place, before_s, bar, by_bytes=by_bytes):
            if nbytes_short <= 0 and seats_short <= 0:
                break
            victim = self._state.items[item]
            same_base = seat and victim.base == spec.base
            if nbytes_short > 0 or same_base:
                victims.append(victim)
                nbytes_short -= victim.nbytes
                seats_short -= same_base
        if nbytes_short > 0 or seats_short > 0:
            return None
        return tuple(_needed(victims, spec.base if seat else "", -nbytes_short, -seats_short))

    def _drained(self, spec: Spec, place: Place, free: Free) -> Item | None:
        """Return who gives up a seat though in use: who has had it longest, so that all have their turn."""
        state = self._state
        if not state.takes_seat(spec.item, place):
            return None
        short = free.soon_seats.get(spec.base, 0) < 1
        keyed = []
        for item in state.shelves.get(place, {}):
            replica = state.replicas[item, place]
            if replica.phase == "leaving":
                return None  # one at a time
            served = replica.phase == "ready" and self._now_s - replica.since_s >= self._limits.hold_s
            if (
                served
                and (item, place) not in self._going
                and (state.items[item].base == spec.base or not short)
            ):
                keyed.append((replica.since_s, item))
        for _, item in sorted(keyed):
            if is_safe(state, Drop("", item, place, "", drains=True), self._now_s, self._limits):
                return item
        return None

    def _bar(self, spec: Spec, place: Place, *, by_bytes: bool) -> float:
        """Return what whoever leaves for this item must be worth less than."""
        if not self._margin:
            return math.inf
        return value(self._state, spec.item, place, self._limits, by_bytes=by_bytes) / self._margin

    def _candidates(self, place: Place, before_s: float, bar: float, *, by_bytes: bool) -> Iterator[Item]:
        """Yield who may be dropped there: surplus first, then who lives there; least worth first.

        Where bytes are short and no seats, that is least worth for its bytes.
        """
        state, now_s, limits = self._state, self._now_s, self._limits
        for at_home, valued, used_s, item in self._ranked(place, by_bytes=by_bytes):
            if (item, place) in self._going or used_s >= before_s or (at_home and self._ahead):
                continue
            if valued < bar and is_safe(state, Drop("", item, place, ""), now_s, limits):
                yield item

    def _ranked(self, place: Place, *, by_bytes: bool) -> list[tuple[bool, float, float, Item]]:
        """Return who may leave a place, in the order of `ranked`; made once."""
        if (place, by_bytes) not in self._ranks:
            state = self._state
            there = (item for item in state.shelves.get(place, {}) if self._may_go(item, place))
            told = ranked(state, place, there, self._now_s, self._limits, by_bytes=by_bytes)
            self._ranks[place, by_bytes] = told
        return self._ranks[place, by_bytes]

    def _may_go(self, item: Item, place: Place) -> bool:
        """Tell, at little cost, of whom `is_safe` may say that it can be dropped."""
        state = self._state
        replica = state.replicas[item, place]
        leased = replica.leases and place not in state.leaves.get(item, ())
        held = self._now_s < state.holds.get(item, self._now_s) and state.serves(item, place)
        return replica.phase == "ready" and not leased and not held


def _needed(victims: list[Spec], base: str, nbytes_over: int, seats_over: int) -> list[Item]:
    """Return the victims without those that need not go, because others free enough; least worth first."""
    needed = []
    for victim in reversed(victims):
        seat = bool(base) and victim.base == base
        if victim.nbytes <= nbytes_over and seat <= seats_over:
            nbytes_over -= victim.nbytes
            seats_over -= seat
        else:
            needed.append(victim.item)
    return needed[::-1]


def bring(
    state: State,
    item: Item,
    place: Place,
    reason: str,
    bookings: Bookings,
    now_s: float,
    before_s: float = math.inf,
    *,
    drains: bool = False,
) -> Iterator[Command]:
    """Suggest the next copy on the way to a place if there is room for it, else the drops that make room."""
    if (item, place) in state.replicas or state.blocked(item, place, now_s) is not None:
        return
    leg = next_leg(state, item, place)
    if leg is None or leg[1] not in state.rooms or state.blocked(item, leg[1], now_s) is not None:
        return
    source, target = leg
    booking = bookings.book(item, target, before_s, drains=drains)
    if booking.now:
        yield Copy("", item, source, target, state.items[item].nbytes, reason)
    for victim in booking.victims:
        yield Drop("", victim, target, f"makes room for {state.items[item].name}: {reason}")
    if booking.drained is not None:
        told = f"has had its seat longest, and {state.items[item].name} waits for one: {reason}"
        yield Drop("", booking.drained, target, told, drains=True)


def copy(state: State, item: Item, place: Place, reason: str) -> Iterator[Copy]:
    """Suggest the next copy on the way to a place, room or not."""
    leg = None if (item, place) in state.replicas else next_leg(state, item, place)
    if leg is not None:
        source, target = leg
        yield Copy("", item, source, target, state.items[item].nbytes, reason)
