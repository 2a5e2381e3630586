"""What does not fit: the arithmetic of a place, biggest first, and the smallest changes that would do."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from placement.change import bytes_at
from placement.plan import no_room
from placement.state import Item, Place, Room, Spec, State
from placement.tiers import Tier
from placement.units import format_budget, format_bytes, parse_bytes


@dataclass(frozen=True, slots=True)
class End:
    """A lab at rest; `barred` are the homes that the file wants for items and the lab could never give."""

    state: State
    now_s: float
    barred: Mapping[Item, Place]

    def home(self, item: Item) -> Place:
        """Return the home that the file wants for an item."""
        return self.barred.get(item) or self.state.home(item)

    def rest(self, item: Item) -> Place:
        """Return where an item should be by the file."""
        return self.barred.get(item) or self.state.rest(item, self.now_s)


#: Returns the lab at rest if these items had these homes, and these places these rooms.
Try = Callable[[Mapping[Item, Place], Mapping[Place, Room]], End]
Fits = Callable[[Mapping[Item, Place], Mapping[Place, Room]], bool]


@dataclass(frozen=True, slots=True)
class Share:
    """What takes part of a place: its name, and its bytes."""

    name: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Misfit:
    """A place that cannot hold all that is to rest there.

    `shares` are what it would hold, biggest first; of seats (`seats_of` names the base), the adapters.
    `outside` are who finds no room, `repairs` the changes of the file that make it fit, the smallest first.
    """

    place: Place
    budget: int
    shares: tuple[Share, ...]
    outside: tuple[str, ...]
    repairs: tuple[str, ...]
    seats: int = 0
    seats_of: str = ""

    @property
    def headline(self) -> str:
        """Return what does not fit where, without the sum."""
        if self.seats_of:
            roles = f"{len(self.shares)} roles at home there"
            return f"{self.place} has {self.seats} slots of {self.seats_of} for {roles}"
        return f"{self.place} has a budget of {format_bytes(self.budget)}"

    def __str__(self) -> str:
        """Return it in one line, with the sum: `…: a 40.0 MiB + b 30.0 MiB = 70.0 MiB, 6.0 MiB too much`."""
        parts = " + ".join(f"{share.name} {format_bytes(share.nbytes)}" for share in self.shares)
        outside = f"without room: {', '.join(self.outside)}"
        if self.seats_of:
            return f"{self.headline}: {parts}; {outside}"
        needed = sum(share.nbytes for share in self.shares)
        over = format_bytes(needed - self.budget)
        return f"{self.headline}: {parts} = {format_bytes(needed)}, {over} too much; {outside}"


def misfits(end: End, kv: Mapping[Place, int], tried: Try) -> tuple[Misfit, ...]:
    """Return each place of a lab at rest where somebody who belongs there found no room.

    `kv` is the part of a place's fixed bytes that is KV cache. A repair is told only if `tried` shows that
    it is one: the place holds all of its own then, and no other place is worse off.
    """
    crowded = _outside(end)

    def found(place: Place) -> Misfit:
        def fits(homes: Mapping[Item, Place], rooms: Mapping[Place, Room]) -> bool:
            left = _outside(tried(homes, rooms))
            worse = (other for other, items in left.items() if len(items) > len(crowded.get(other, ())))
            return place not in left and next(worse, None) is None

        return _misfit(end, place, crowded[place], kv, fits)

    return tuple(map(found, sorted(crowded)))


def _outside(end: End) -> dict[Place, list[Item]]:
    """Return, by place, the items that are to rest there and have no room."""
    outside: dict[Place, list[Item]] = {}
    state = end.state
    for item in state.items:
        rest = end.rest(item)
        there = item in state.retired or (item, rest) in state.replicas
        if not there and rest in state.rooms and (item in end.barred or no_room(state, item, rest)):
            outside.setdefault(rest, []).append(item)
    return outside


def _misfit(end: End, place: Place, outside: list[Item], kv: Mapping[Place, int], fits: Fits) -> Misfit:
    state = end.state
    room = state.rooms[place]
    here = [item for item in state.items if _belongs(end, item, place)]
    shares = [Share(state.items[item].name, bytes_at(state, item, place)) for item in here]
    shares += [Share(f"{item} (not registered)", nbytes) for item, nbytes in _strangers(state, place)]
    if room.fixed:
        base = room.fixed - kv.get(place, 0)
        fixed = [Share("base weights", base), Share("KV cache", kv.get(place, 0))]
        shares += [share for share in fixed if share.nbytes]
    names = tuple(state.items[item].name for item in outside)
    crowded = _crowded_base(state, place, here)
    if sum(share.nbytes for share in shares) <= room.budget and crowded:
        seated = _seated(state, place, crowded, here)
        shares = [Share(state.items[item].name, state.items[item].nbytes) for item in seated]
        repairs = tuple(_seat_repairs(end, place, crowded, seated, fits))
        biggest = tuple(sorted(shares, key=_biggest_first))
        return Misfit(place, room.budget, biggest, names, repairs, room.seats[crowded], crowded)
    repairs = tuple(_room_repairs(end, place, here, shares, fits))
    return Misfit(place, room.budget, tuple(sorted(shares, key=_biggest_first)), names, repairs)


def _biggest_first(share: Share) -> tuple[int, str]:
    return -share.nbytes, share.name


def _strangers(state: State, place: Place) -> list[tuple[Item, int]]:
    return sorted(state.strangers.get(place, {}).items())


def _belongs(end: End, item: Item, place: Place) -> bool:
    """Tell whether an item is to be at a place: it rests there, or its durable copy does."""
    spec = end.state.items[item]
    return item not in end.state.retired and place in (end.rest(item), spec.durable, spec.landing)


def _crowded_base(state: State, place: Place, here: list[Item]) -> str:
    """Return a base with more adapters at home in a VRAM place than seats, "" if there is none."""
    for base, seats in state.rooms[place].seats.items():
        if len(_seated(state, place, base, here)) > seats:
            return base
    return ""


def _seated(state: State, place: Place, base: str, here: list[Item]) -> list[Item]:
    return [item for item in here if state.items[item].base == base and state.takes_seat(item, place)]


def _seat_repairs(end: End, place: Place, base: str, seated: list[Item], fits: Fits) -> Iterator[str]:
    room = end.state.rooms[place]
    yield from _rehomed(end, place, seated, fits)
    more = replace(room, seats={**room.seats, base: len(seated)})
    if fits({}, {place: more}):
        yield f"bases.{base}.slots: {len(seated)}"


def _room_repairs(end: End, place: Place, here: list[Item], shares: list[Share], fits: Fits) -> Iterator[str]:
    yield from _rehomed(end, place, here, fits)
    text = format_budget(sum(share.nbytes for share in shares))
    if fits({}, {place: replace(end.state.rooms[place], budget=parse_bytes(text))}):
        yield f"nodes.{_budget_field(end.state, place)}: {text}"


def _budget_field(state: State, place: Place) -> str:
    """Return the field of the file that holds a place's budget."""
    if place.tier is Tier.RAM:
        return f"{place.node}.ram"
    if place.tier is Tier.SSD:
        return f"{place.node}.ssd.budget"
    devices = [other for other in state.rooms if other.node == place.node and other.tier is Tier.VRAM]
    return f"{place.node}.vram" if len(devices) == 1 else f"{place.node}.vram.{place.device}"


def _rehomed(end: End, place: Place, here: list[Item], fits: Fits) -> Iterator[str]:
    """Yield the change of homes that makes it fit and moves the fewest items, of those the fewest bytes."""
    state = end.state
    movable = [item for item in here if end.home(item) == place and not state.pinned(item)]
    movable.sort(key=lambda item: (state.items[item].nbytes, state.items[item].name))
    for item in movable:
        for below in _below(state, state.items[item], place):
            if fits({item: below}, {}):
                yield _said(state, {item: below})
                return
    moved: dict[Item, Place] = {}
    for item in reversed(movable):
        lower = _below(state, state.items[item], place)
        if not lower:
            continue
        moved[item] = lower[0]
        if len(moved) > 1 and fits(moved, {}):
            yield _said(state, moved)
            return


def _below(state: State, spec: Spec, place: Place) -> list[Place]:
    """Return the lower places of the item's own node that have a room, the highest first."""
    node = (spec.landing or spec.durable).node
    tiers = [tier for tier in (Tier.RAM, Tier.SSD) if tier.height < place.tier.height]
    return [below for tier in tiers if (below := Place(node, tier)) in state.rooms]


def _said(state: State, homes: Mapping[Item, Place]) -> str:
    return ", ".join(f"{state.items[item].name}: home {place}" for item, place in homes.items())
