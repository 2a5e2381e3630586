"""What the machines of a pretended lab hold, and what they still have to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from placement.messages import Copy, Drop
from placement.state import Item, Place, Room, Spec


@dataclass(slots=True)
class Held:
    """One item that is really there."""

    nbytes: int
    used_s: float
    leases: int = 0
    hits: int = 0
    #: since when it takes no new request, because it leaves once those in flight have ended
    closed_s: float | None = None


@dataclass(slots=True)
class FakeStore:
    """What one place really holds, and what is on its way in (`coming`, by op)."""

    room: Room | None
    held: dict[Item, Held] = field(default_factory=dict)
    coming: dict[str, Spec] = field(default_factory=dict)

    def has_room(self, spec: Spec, specs: Mapping[Item, Spec]) -> bool:
        if self.room is None:
            return True
        nbytes = sum(held.nbytes for held in self.held.values()) + sum(c.nbytes for c in self.coming.values())
        seated = [specs[item].base for item in self.held] + [coming.base for coming in self.coming.values()]
        seats = self.room.seats.get(spec.base) if self.room.seats else None
        return nbytes + spec.nbytes <= self.room.capacity and (
            seats is None or seated.count(spec.base) < seats
        )


@dataclass(slots=True)
class FakeNode:
    """A machine; `life` counts its boots, so that what was sent to an earlier one is lost."""

    name: str
    stores: dict[Place, FakeStore]
    alive: bool = True
    life: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """To be done at a node later: a copy or drop, the end of a lease (Held), a beat asked at a time."""

    task: Copy | Drop | Held | float
    place: Place
    life: int
    arrives: bool
