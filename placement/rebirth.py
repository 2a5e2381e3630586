"""What outlives a coordinator: a ledger of registrations and orders, from which the next one starts."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from placement.faults import Dice
from placement.messages import Event, MoveOrdered, PinSet, Registered, Removed
from placement.resume import as_ordered, resting_on
from placement.state import NETWORK, Item, Place, Spec, State
from placement.tiers import Tier
from placement.world import World


@dataclass(slots=True)
class Ledger:
    """What a journal keeps: what was registered, where it was durable when last noted, homes and pins."""

    specs: dict[Item, Spec] = field(default_factory=dict)
    durables: dict[Item, Place] = field(default_factory=dict)
    homes: dict[Item, Place] = field(default_factory=dict)
    pins: dict[Item, bool] = field(default_factory=dict)

    def note(self, event: Event, state: State) -> None:
        """Write down what lasts of an event that was taken in."""
        match event:
            case Registered(spec):
                replaced = [each for each, said in self.specs.items() if said.name == spec.name]
                for item in replaced:
                    if item != spec.item:
                        self.forget(item)
                self.specs.setdefault(spec.item, spec)
                self.durables.setdefault(spec.item, spec.landing or spec.durable)
            case Removed(item):
                self.forget(item)
            case MoveOrdered(item):
                self.homes[item] = state.home(item)
            case PinSet(item, pinned):
                self.pins[item] = pinned

    def forget(self, item: Item) -> None:
        for table in (self.specs, self.durables, self.homes, self.pins):
            table.pop(item, None)

    def settle(self, state: State, dice: Dice) -> None:
        """Write down where homes are after undone moves, and, not always in time, durable copies."""
        for item in self.homes:
            if item in state.items and item not in state.moves:
                self.homes[item] = state.home(item)
        for item, noted in self.durables.items():
            spec = state.items.get(item)
            now = None if spec is None else spec.landing or spec.durable
            if now is not None and now != noted and dice.random() < 0.5:
                self.durables[item] = now


def recalled(ledger: Ledger, world: World, item: Item, here: Collection[str]) -> Registered | None:
    """Return the registration of an item by a new coordinator, None while its nodes are not `here`.

    One of its engines is there. Its durable copy is where the ledger says if it is there, else where an
    inventory shows it; an adapter that nobody has is built again from its source.
    """
    said = ledger.specs[item]
    seats = said.serves_at if said.kind == "adapter" else (said.durable,)
    if seats and all(seat.node not in here for seat in seats):
        return None
    found = _found(ledger, world, said, here)
    if found is None:
        return None
    spec = as_ordered(resting_on(said, found), ledger.homes, ledger.pins, here)
    return Registered(spec, (spec.durable,))


def _found(ledger: Ledger, world: World, said: Spec, here: Collection[str]) -> Place | None:
    item, noted = said.item, ledger.durables[said.item]
    if said.kind == "shard" or said.durable == NETWORK:
        return noted
    holders = sorted(
        place for place in world.places_of(item) if place.tier is Tier.SSD and place.node in here
    )
    if noted in holders or (not holders and noted.node in here and item not in world.sourceless):
        if noted not in holders:
            world.add(replace(said, durable=noted))
        return noted
    return holders[0] if holders else None
