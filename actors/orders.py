"""What people order of a lab that runs: a new home, a pin, to come up, to go; what lasts is written down."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from actors import incarnations, wants
from actors.ask import Stamp, admit
from actors.muster import place_for
from actors.warming import Warming
from placement.errors import TierceError, UserError, WorldError
from placement.hints import forecast
from placement.messages import MoveOrdered, PinSet, UnloadOrdered, WarmCancelled, WarmOrdered

if TYPE_CHECKING:
    from actors.coordinator import Coordinator
    from actors.listing import Thing
    from placement.state import Item, Place

#: How long `unload` waits for answers in flight before it says how far it is.
UNLOAD_S = 20.0


async def move(
    coordinator: Coordinator, name: str, to: str | None, node: str | None, within_s: float
) -> Thing:
    """Make another place an item's home; return its row once it is there and has left the old one.

    Without `to` it keeps its tier. A role that goes to another node gets its next incarnation there. Raises
    UserError for a place that cannot be, WorldError TRC022 for one without room, TRC027 if the move was
    undone or another was ordered meanwhile, TRC013 if it still goes on after `within_s`.
    """
    machine, crew = await coordinator.opened()
    began = time.monotonic()
    item = coordinator.item_named(name)
    if node is not None:
        crew.check_seen(crew.node_of(node))
    target = place_for(crew, machine.state, item, to, node)
    coordinator.take(MoveOrdered(item, target, "the user"))
    note_home(coordinator, item)

    def over() -> bool:
        state = machine.state
        return (
            item not in state.items
            or state.home(item) != target
            or not (item in state.moves or item in state.leaves)
        )

    in_time = await coordinator.until(over, within_s)
    if item not in machine.state.items:
        raise UserError("TRC025", f"{name} was removed from the lab")
    if machine.state.home(item) != target:
        raise _undone(coordinator, item, target)
    if not in_time:
        took = f"{time.monotonic() - began:.0f} s"
        raise WorldError("TRC013", f"{name} is not at {target} after {took}", f"see `tierce story {name}`")
    spec = machine.state.items[item]
    if spec.kind == "adapter":
        coordinator.journal.settle(item, (spec.landing or spec.durable).node)
        if node is not None and node != crew.role_node(spec.name):
            await _seat(coordinator, spec.name, item, node)
    return (await coordinator.ps()).thing(spec.name)


async def _seat(coordinator: Coordinator, role: str, item: Item, node: str) -> None:
    """Begin a role anew on another node; the old incarnation answers what it has begun, then ends."""
    _, crew = coordinator.brain()
    async with coordinator.changing:
        before = crew.seats.get(role)
        crew.seats[role] = node
        try:
            ending = await incarnations.hire(crew, role, item, None)
        except TierceError:
            crew.seats.pop(role)
            if before is not None:
                crew.seats[role] = before
            raise
        coordinator.journal.order(role, "seat", node)
        coordinator.journal.tell(item, f"its actor begins anew on {node}; the old one drains", time.time())
    if ending is not None:
        coordinator.keep(ending)


async def pin(coordinator: Coordinator, name: str, *, pinned: bool) -> Thing:
    """Hold an item at its home, or let go of it; return its row."""
    machine, _ = await coordinator.opened()
    item = coordinator.item_named(name)
    plain = machine.state.items[item].name
    coordinator.take(PinSet(item, pinned, "the user"))
    coordinator.journal.order(item, "pin", pinned)
    return (await coordinator.ps()).thing(plain)


async def warm(coordinator: Coordinator, name: str, caller: str, cause: str, within_s: float) -> Warming:
    """Have an item brought up where it serves, ahead of need; return what that comes to.

    What rests on the network and was never fetched is fetched. Nobody is evicted who rests where he is.
    Raises NotAllowed TRC002 for a caller that the role's `activated_by` does not name, WorldError TRC022 if
    those who stay leave no room, TRC028 if it cannot be in time, each with its numbers.
    """
    machine, crew = await coordinator.opened()
    if (role := crew.lab.roles.get(name.partition("@")[0])) is not None:
        admit(role.name, role.activated_by, Stamp(caller))
    if wants.pending(coordinator, name):
        coordinator.keep(_fetch(coordinator, name, cause, within_s))
        return Warming((await coordinator.ps()).thing(name), None)
    item = coordinator.item_named(name)
    told = forecast(machine.state, item, within_s, time.monotonic(), machine.limits)
    if told.refusal is not None:
        raise WorldError(*told.refusal, f"see `tierce story {name}`")
    named = {each: machine.state.items[each].name for each in (item, *told.evicts, *told.waits_for)}
    coordinator.take(WarmOrdered(item, cause, within_s))
    return Warming(
        (await coordinator.ps()).thing(named[item]),
        told.eta_s,
        tuple(named[each] for each in told.evicts),
        tuple(named[each] for each in told.waits_for),
    )


async def cool(coordinator: Coordinator, name: str, cause: str) -> Thing:
    """Take an order to warm back; what is on its way still arrives. Return the item's row."""
    machine, _ = await coordinator.opened()
    item = coordinator.item_named(name)
    plain = machine.state.items[item].name
    coordinator.take(WarmCancelled(item, cause))
    return (await coordinator.ps()).thing(plain)


async def _fetch(coordinator: Coordinator, name: str, cause: str, within_s: float) -> None:
    try:
        item = await wants.fetch(coordinator, name, cause, within_s)
        coordinator.take(WarmOrdered(item, cause, within_s))
    except TierceError as error:
        coordinator.journal.tell(name, f"not warmed ({cause}): {error}", time.time())


async def unload(coordinator: Coordinator, name: str, cause: str) -> Thing:
    """Have an item go where it rests when idle, as if it had been idle for long; return its row then."""
    machine, _ = await coordinator.opened()
    item = coordinator.item_named(name)
    plain = machine.state.items[item].name
    coordinator.take(UnloadOrdered(item, cause))
    stays = machine.state.idle_home(item)

    def gone() -> bool:
        state, spec = machine.state, machine.state.items.get(item)
        return spec is None or all(place in (stays, spec.durable) for place in state.spots.get(item, ()))

    await coordinator.until(gone, UNLOAD_S)
    return (await coordinator.ps()).thing(plain)


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
