"""How full the memory behind a place is: by its gauges, or by its budget where nobody measures."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from placement.state import Gauge, Limits, Place, State
from placement.tally import EMPTY
from placement.units import format_bytes


@dataclass(frozen=True, slots=True)
class Level:
    """Of `gauge.total` bytes, `taken` are taken: by others, by what is fixed and by items."""

    gauge: Gauge
    taken: int

    @property
    def share(self) -> float:
        """Return the part that is taken; 1 of a memory that has no bytes."""
        return self.taken / self.gauge.total if self.gauge.total > 0 else 1.0

    def over(self, mark: float) -> int:
        """Return the bytes that are taken beyond `mark` (a share); negative is what is left below it."""
        return self.taken - int(mark * self.gauge.total)

    def __str__(self) -> str:
        """Return `96% full (61.0 GiB of 64.0 GiB by psutil, 20.0 GiB of them by others)`."""
        gauge = self.gauge
        others = f", {format_bytes(gauge.others)} of them by others" if gauge.others else ""
        of = f"{format_bytes(self.taken)} of {format_bytes(gauge.total)}"
        return f"{self.share:.0%} full ({of} by {gauge.source}{others})"


def is_measured(state: State, place: Place) -> bool:
    """Tell whether a beat measured the memory; else all that is known of it is the budget."""
    return bool(state.gauges.get(place))


def levels(state: State, place: Place) -> list[Level]:
    """Return the level by each gauge of a place that has a Room, everything in flight counted."""
    room = state.rooms[place]
    ours = room.fixed + state.used(place)
    gauges = state.gauges.get(place) or (Gauge(room.budget, 0, "ledger"),)
    return [Level(gauge, gauge.others + ours) for gauge in gauges]


def level(state: State, place: Place, going: int = 0) -> Level:
    """Return the level of the fullest gauge, with `going` bytes taken as gone."""
    ebbed = [replace(each, taken=each.taken - going) for each in levels(state, place)]
    return max(ebbed, key=lambda each: each.share)


def leaving(state: State, place: Place) -> int:
    """Return the bytes that are on their way out of a place."""
    return state.tallies.get(place, EMPTY).leaving_nbytes


def left(state: State, place: Place) -> int:
    """Return the bytes that a place can still take: of its budget, and of the memory that is really there."""
    free = state.rooms[place].capacity - state.used(place)
    if is_measured(state, place):
        free = min(free, *(each.gauge.total - each.taken for each in levels(state, place)))
    return free


def mark(state: State, place: Place, limits: Limits) -> float:
    """Return the share up to which a place is filled unasked: the lower one while it was pressed of late."""
    return (limits.low if place in state.pressed else limits.high).get(place.tier, 1.0)


def spare(state: State, place: Place, limits: Limits) -> int:
    """Return the bytes that may be brought to a place though nobody waits for them."""
    share = mark(state, place, limits)
    return min(left(state, place), *(-each.over(share) for each in levels(state, place)))


def crowded(state: State, place: Place, nbytes: int, limits: Limits) -> str:
    """Return why `nbytes` that rest at a place must wait until it is less full, "" if they need not.

    A budget is a promise that was made for what rests there, so it is filled to its end; memory that is
    measured is shared with others.
    """
    if place not in state.rooms or not is_measured(state, place) or nbytes <= spare(state, place, limits):
        return ""
    share = mark(state, place, limits)
    full = f"{place} is {level(state, place)}"
    return f"{full}, and with {format_bytes(nbytes)} more it would be over {share:.0%}"


def press(draft: State, places: Iterable[Place], now_s: float, limits: Limits) -> None:
    """Note which of these places are over their high mark, or were of late."""
    pressed = dict(draft.pressed)
    for place in places:
        if place not in draft.rooms:
            continue
        if _is_over(draft, place, limits.high.get(place.tier, 1.0)):
            pressed[place] = now_s
        elif place in pressed and now_s - pressed[place] >= limits.calm_s:
            del pressed[place]
    if pressed != draft.pressed:
        draft.pressed = pressed


def _is_over(state: State, place: Place, high: float) -> bool:
    """Tell whether a place with a Room is filled beyond a share, what leaves it taken as gone."""
    room, ours = state.rooms[place], state.used(place) - leaving(state, place)
    gauges = state.gauges.get(place)
    if not gauges:
        return room.fixed + ours > high * room.budget if room.budget > 0 else high < 1.0
    return any(Level(gauge, gauge.others + room.fixed + ours).share > high for gauge in gauges)


def is_overfull(state: State, place: Place) -> bool:
    """Tell whether a place holds more bytes or more seats than its room has."""
    room = state.rooms.get(place)
    if room is None:
        return False
    seats = any(state.seated(place, base) > count for base, count in room.seats.items())
    return seats or state.used(place) > room.capacity
