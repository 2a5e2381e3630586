"""How a place is filled: base weights, KV cache, adapters in slots, other items, and what is free."""

from collections.abc import Mapping
from dataclasses import dataclass

from placement.state import Place, State


@dataclass(frozen=True, slots=True)
class Fill:
    """The bytes of a place's budget; `slots` are those of adapters in VRAM, `items` all other items.

    `seats` tells, for each base, how many seats are taken of how many.
    """

    place: Place
    budget: int
    base: int
    kv: int
    slots: int
    items: int
    seats: tuple[tuple[str, int, int], ...]

    @property
    def free(self) -> int:
        """Return what is left of the budget; below zero if it is overfull."""
        return self.budget - self.base - self.kv - self.slots - self.items


def fills(state: State, kv: Mapping[Place, int]) -> tuple[Fill, ...]:
    """Return how each place is filled, in their order; `kv` is the KV cache in a place's fixed bytes."""
    found = []
    for place, room in sorted(state.rooms.items()):
        shelf = state.shelves.get(place, {})
        slots = sum(nbytes for item, nbytes in shelf.items() if state.takes_seat(item, place))
        cache = min(kv.get(place, 0), room.fixed)
        found.append(
            Fill(
                place=place,
                budget=room.budget,
                base=room.fixed - cache,
                kv=cache,
                slots=slots,
                items=state.used(place) - slots,
                seats=tuple((base, state.seated(place, base), of) for base, of in room.seats.items()),
            )
        )
    return tuple(found)
