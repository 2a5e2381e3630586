"""What the machines of a pretended lab hold, and what they still have to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from placement.messages import Copy, Drop
from placement.state import Item, Place, Room, Spec

Fate = Literal["well", "fails", "for good", "corrupt"]


@dataclass(slots=True)
class Held:
    """One item that is really there; `rotten` if its bytes are no longer those of its digest."""

    nbytes: int
    used_s: float
    leases: int = 0
    hits: int = 0
    #: since when it takes no new request, because it leaves once those in flight have ended
    closed_s: float | None = None
    rotten: bool = False


@dataclass(slots=True)
class FakeStore:
    """What one place really holds, and what is on its way in (`coming`, by op).

    `life` counts the births of the actor that holds it; until `silent_s` it does not answer. A `full` disk
    takes nothing, whatever its budget says.
    """

    room: Room | None
    held: dict[Item, Held] = field(default_factory=dict)
    coming: dict[str, Spec] = field(default_factory=dict)
    life: int = 0
    silent_s: float = 0.0
    full: bool = False

    def has_room(self, spec: Spec, specs: Mapping[Item, Spec]) -> bool:
        if self.room is None:
            return True
        nbytes = sum(held.nbytes for held in self.held.values()) + sum(c.nbytes for c in self.coming.values())
        if nbytes + spec.nbytes > self.room.capacity:
            return False
        seats = self.room.seats.get(spec.base) if self.room.seats else None
        if seats is None:
            return True
        seated = [specs[item].base for item in self.held] + [coming.base for coming in self.coming.values()]
        return seated.count(spec.base) < seats


@dataclass(slots=True)
class FakeNode:
    """A machine; `life` counts its boots, so that what was sent to an earlier one is lost.

    It follows the coordinator of `epoch` and refuses what an older one commands. Until `cut_s` nothing comes
    through to it or from it. Calls arrive in order: none before `calls_s`.
    """

    name: str
    stores: dict[Place, FakeStore]
    alive: bool = True
    life: int = 0
    epoch: int = 0
    cut_s: float = 0.0
    calls_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Work:
    """To be done at a node later: a copy or drop, the end of a lease (Held), a beat asked at a time.

    `life` is that of the place's actor when it was sent; `epoch` is who commanded it, and `fate` how it goes.
    """

    task: Copy | Drop | Held | float
    place: Place
    life: int
    arrives: bool
    epoch: int = 0
    fate: Fate = "well"
