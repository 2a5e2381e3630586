"""What people order of a lab that runs, a new home or a pin: each is written down for a later coordinator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.muster import place_for
from placement.errors import WorldError
from placement.messages import MoveOrdered, PinSet

if TYPE_CHECKING:
    from actors.coordinator import Coordinator
    from actors.listing import Thing
    from placement.state import Item, Place


async def move(coordinator: Coordinator, name: str, to: str, node: str | None, within_s: float) -> Thing:
    """Make another place an item's home; return its row once it is there and has left the old one.

    Raises UserError for a place that cannot be, WorldError TRC022 for one without room, TRC027 if the move
    was undone or another was ordered meanwhile, TRC013 if it still goes on after `within_s`.
    """
    machine, crew = await coordinator.opened()
    item = coordinator.item_named(name)
    target = place_for(crew, machine.state, item, to, node)
    coordinator.take(MoveOrdered(item, target, "the user"))
    note_home(coordinator, item)

    def over() -> bool:
        state = machine.state
        return state.home(item) != target or not (item in state.moves or item in state.leaves)

    in_time = await coordinator.until(over, within_s)
    if machine.state.home(item) != target:
        raise _undone(coordinator, item, target)
    if not in_time:
        raise WorldError(
            "TRC013", f"{name} is not at {target} after {within_s:.0f} s", f"see `tierce story {name}`"
        )
    return (await coordinator.ps()).thing(machine.state.items[item].name)


async def pin(coordinator: Coordinator, name: str, *, pinned: bool) -> Thing:
    """Hold an item at its home, or let go of it; return its row."""
    machine, _ = await coordinator.opened()
    item = coordinator.item_named(name)
    coordinator.take(PinSet(item, pinned, "the user"))
    coordinator.journal.order(item, "pin", pinned)
    return (await coordinator.ps()).thing(machine.state.items[item].name)


def note_home(coordinator: Coordinator, item: Item) -> None:
    """Write down where an item is to rest from now on."""
    home = coordinator.brain()[0].state.home(item)
    coordinator.journal.order(item, "home", [home.node, str(home.tier), home.device])


def _undone(coordinator: Coordinator, item: Item, target: Place) -> WorldError:
    state = coordinator.brain()[0].state
    name, setback = state.items[item].name, state.backoff.get((item, target))
    if setback is None:
        why = f"{state.home(item)} was ordered meanwhile"
    else:
        why = f"it stays at {state.home(item)}: {setback}"
    return WorldError("TRC027", f"{name} does not move to {target}; {why}", f"see `tierce story {name}`")
