"""Hot roles over the engines of one base: a further copy while one engine leads, gone when it need not be."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from placement.aim import MEMORY
from placement.heat import count
from placement.messages import Command, Drop
from placement.plan import is_safe
from placement.seating import Bookings, bring
from placement.state import Item, Limits, Place, State

#: an engine leads if so much more of its base's asks go to it than to another: its hottest role is copied
LEADS = 0.4
#: and by that many more requests that are in flight: without a crowd, a second engine gains nothing
CROWD = 2
#: a further copy goes if no engine would lead by more than this without it, but not before `further_s`
COOLED = LEADS / 2
#: who leaves for a further copy must be worth so many times less
MARGIN = 1.2


@dataclass(frozen=True, slots=True)
class Loads:
    """What of a base's latest asks goes to each of its engines, 0 to 1.

    `parts` is that of each item, which its ready `copies` share alike.
    """

    parts: dict[Item, float]
    copies: dict[Item, tuple[Place, ...]]
    at: dict[Place, float]

    def each(self, item: Item) -> float:
        """Return what goes to each copy of an item."""
        return self.parts[item] / len(self.copies[item])

    def lead_without(self, item: Item, place: Place) -> float:
        """Return by how much another engine would lead this one if it lost its copy of an item."""
        others = [other for other in self.copies[item] if other != place]
        more = self.parts[item] / len(others) - self.each(item)
        return max(self.at[other] + more for other in others) - (self.at[place] - self.each(item))


def rebalance(state: State, _items: Iterable[Item], now_s: float, limits: Limits) -> Iterator[Command]:
    """Copy the hottest role of an engine that leads to the calmest one, and let a further copy go when cool.

    Looked at with each Tick, one step at a time for each base. The two bounds lie apart by more than chance
    moves what they compare, and a copy stays for `further_s`: under a constant load everything comes to rest.
    """
    if not state.aims or now_s != state.ticked_s:
        return
    bases: dict[str, list[Item]] = {}
    for item in state.aims:
        if item not in state.retired:
            bases.setdefault(state.items[item].base, []).append(item)
    for items in bases.values():
        engines = state.items[items[0]].serves_at
        if any(state.tallies[place].loading for place in engines if place in state.tallies):
            continue
        loads = _loads(state, items, engines)
        cooled = next(_cooled(state, loads, now_s, limits), None)
        if cooled is not None:
            yield cooled
        else:
            yield from _spread(state, loads, engines, now_s, limits)


def _loads(state: State, items: list[Item], engines: tuple[Place, ...]) -> Loads:
    counts = {item: count(state, item, MEMORY) for item in items}
    total = sum(counts.values()) or 1.0
    copies = {item: tuple(place for place in engines if state.ready(item, place)) for item in items}
    loads = Loads({item: asks / total for item, asks in counts.items()}, copies, dict.fromkeys(engines, 0.0))
    for item, places in copies.items():
        for place in places:
            loads.at[place] += loads.each(item)
    return loads


def _cooled(state: State, loads: Loads, now_s: float, limits: Limits) -> Iterator[Drop]:
    """Yield the further copies that need not be: what is no longer asked for, and what balances nothing."""
    for item, places in loads.copies.items():
        stays = (state.aims[item], state.rest(item, now_s))
        for place in places if len(places) > 1 else ():
            stayed = now_s - state.replicas[item, place].since_s >= limits.further_s
            idle_s, lead = now_s - state.uses[item], loads.lead_without(item, place)
            if place in stays or not stayed or (idle_s < limits.further_s and lead > COOLED):
                continue
            part = f"{loads.parts[item]:.0%} of asks"
            why = f"not asked for in {idle_s:.0f} s" if idle_s >= limits.further_s else part
            drop = Drop("", item, place, f"cooled, {why}: {state.aims[item]} is enough")
            if is_safe(state, drop, now_s, limits):
                yield drop


def _spread(
    state: State, loads: Loads, engines: tuple[Place, ...], now_s: float, limits: Limits
) -> Iterator[Command]:
    open_ = [place for place in engines if place in state.seen and state.alive(place.node)]
    spare = [place for place in open_ if place not in state.lines]
    if not spare:
        return
    busiest, calmest = max(open_, key=loads.at.__getitem__), min(spare, key=loads.at.__getitem__)
    if loads.at[busiest] - loads.at[calmest] < LEADS:
        return
    if _in_flight(state, busiest, loads) - _in_flight(state, calmest, loads) < CROWD:
        return
    hot = [
        (loads.each(item), item)
        for item, places in loads.copies.items()
        if busiest in places
        and state.replicas[item, busiest].leases
        and now_s - state.uses[item] < limits.further_s
        and (item, calmest) not in state.replicas
        and item not in state.moves
        and item not in state.unloads
    ]
    if not hot:
        return
    part, item = max(hot)
    bookings = Bookings(state, now_s, limits, ahead=True, margin=MARGIN)
    reason = f"hot, {part:.0%} of asks at {busiest}, which has {loads.at[busiest]:.0%} of all"
    yield from bring(state, item, calmest, reason, bookings, now_s)


def _in_flight(state: State, place: Place, loads: Loads) -> int:
    """Return how many requests the items of a base have at an engine, as its last beat told."""
    return sum(state.replicas[item, place].leases for item, places in loads.copies.items() if place in places)
