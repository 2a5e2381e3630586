"""What may be done: `is_safe` is the one guard, and `admit` lets suggestions through it, one by one."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from placement.apply import begin
from placement.messages import Command, Copy, Drop, Grant, Refuse
from placement.place import listed
from placement.pressure import left, level
from placement.state import NETWORK, Item, Limits, Place, Replica, State
from placement.tally import EMPTY
from placement.tiers import Tier
from placement.units import format_bytes, format_seconds

#: residents of a place that a sentence names
SHOWN = 8


def admit(draft: State, suggestions: Iterable[Command], now_s: float, limits: Limits) -> list[Command]:
    """Record the suggestions that are safe in the draft, and return them as commands.

    Each is judged against what the ones before it leave behind, once all are made. The op ids that
    suggestions carry are ignored: an admitted Copy or Drop gets "<epoch>.<n>".
    """
    admitted: list[Command] = []
    for suggestion in tuple(suggestions):
        command = suggestion
        if not is_safe(draft, command, now_s, limits):
            continue
        if isinstance(command, Copy | Drop):
            command = replace(command, op=f"{draft.epoch}.{draft.issued + 1}")
        begin(draft, command, now_s, limits)
        admitted.append(command)
    return admitted


def is_safe(state: State, command: Command, now_s: float, limits: Limits) -> bool:
    """Tell whether a command may be given now. Every command of every policy passes here and nowhere else."""
    return next(objections(state, command, now_s, limits), None) is None


def objections(state: State, command: Command, now_s: float, limits: Limits) -> Iterator[str]:
    """Yield, in plain words with their numbers, all reasons why a command must not be given now."""
    match command:
        case Copy():
            yield from _against_copy(state, command, now_s, limits)
        case Drop():
            yield from _against_drop(state, command, now_s, limits)
        case Grant(want, item, place):
            if want not in state.wants or state.wants[want].item != item:
                yield f"no open want {want} for {item}"
            elif state.served_at(item) != place:
                yield f"{item} is not served at {place}"
        case Refuse(want, item):
            if want not in state.wants or state.wants[want].item != item:
                yield f"no open want {want} for {item}"


def _against_copy(state: State, copy: Copy, now_s: float, limits: Limits) -> Iterator[str]:
    item, source, target = copy.item, copy.source, copy.target
    spec = state.items.get(item)
    if spec is None or item in state.retired:
        yield f"{item} is not registered"
        return
    if copy.nbytes != spec.nbytes:
        yield f"{item} has {spec.nbytes} bytes, not {copy.nbytes}"
    if source.tier is Tier.VRAM:
        yield f"{source} cannot be read: slot bytes are not the image"
    if source == NETWORK and target != state.landing(item):
        yield f"what comes from the network lands at {state.landing(item)} first"
    if not state.ready(item, source):
        yield f"nothing to read at {source}"
    if (item, target) in state.replicas:
        yield f"{item} is {state.replicas[item, target].phase} at {target} already"
    if target.tier is Tier.VRAM and target not in spec.serves_at:
        yield f"{item} is served at {listed(spec.serves_at)}, not at {target}"
    if spec.kind == "shard" and target.node != spec.durable.node:
        yield f"{item} stays with its log on {spec.durable.node}"
    if (setback := state.blocked(item, target, now_s)) is not None:
        yield f"the last try failed: {setback}"
    yield from _against_target(state, item, target, limits)


def _against_target(state: State, item: Item, target: Place, limits: Limits) -> Iterator[str]:
    if target not in state.rooms:
        yield f"{target} is not offered by any node"
        return
    if not state.alive(target.node):
        yield f"{target.node} is lost ({state.nodes[target.node].why})"
    if target not in state.seen:
        yield f"{target} has not reported yet what it holds"
    if crowded := no_room(state, item, target):
        yield crowded
    loading = state.tallies.get(target, EMPTY).loading
    if loading >= limits.copies_per_place:
        yield f"{loading} copies into {target} are in flight, and {limits.copies_per_place} may be"


def no_room(state: State, item: Item, place: Place) -> str:
    """Return why a place has no room for an item (bytes, seats, who is there), "" if it has or holds it.

    A place that nobody offers has nothing to count: "".
    """
    room, spec = state.rooms.get(place), state.items[item]
    if room is None or (item, place) in state.replicas:
        return ""
    told = []
    used = state.used(place)
    if used + spec.nbytes > room.capacity:
        told.append(
            f"{place} has {format_bytes(max(room.capacity - used, 0))} of {format_bytes(room.capacity)} "
            f"free, and {format_bytes(spec.nbytes)} are needed: {occupants(state, place)}"
        )
    elif spec.nbytes > left(state, place):
        told.append(
            f"{place} is {level(state, place)}, and {format_bytes(spec.nbytes)} are needed: "
            f"{occupants(state, place)}"
        )
    seats, seated = room.seats.get(spec.base, 0), state.seated(place, spec.base)
    if seated >= seats and state.takes_seat(item, place):
        told.append(
            f"{place} has {seats} seats for base {spec.base}, and {seated} are taken: "
            f"{occupants(state, place)}"
        )
    return "; ".join(told)


def _against_drop(state: State, drop: Drop, now_s: float, limits: Limits) -> Iterator[str]:
    item, place = drop.item, drop.place
    replica = state.replicas.get((item, place))
    if replica is None or replica.phase != "ready":
        yield f"{item} is {replica.phase if replica else 'not'} at {place}"
        return
    if not state.alive(place.node):
        yield (
            f"{place.node} is lost ({state.nodes[place.node].why})"
            if place.node in state.nodes
            else "no such node"
        )
    if place == NETWORK:
        yield f"{item} lies at its address"
    # what an order sends away is drained there
    if replica.leases and place not in state.leaves.get(item, ()):
        if drop.drains:
            yield from _against_draining(state, item, place, now_s, limits)
        else:
            yield f"{replica.leases} lease{'s' if replica.leases > 1 else ''}"
    if _is_read(state, item, place):
        yield "being copied from"
    if state.blocked(item, place, now_s) is not None:
        yield "refused to go a moment ago"
    if item not in state.retired:
        yield from _against_losing(state, item, place, now_s)


def _is_read(state: State, item: Item, place: Place) -> bool:
    """Tell whether a copy in flight reads the item there."""
    running = (state.ops.get(replica.op) for _, replica in state.at(item) if replica.phase == "loading")
    return any(
        isinstance(op.command, Copy) and op.command.source == place for op in running if op is not None
    )


def _against_draining(state: State, item: Item, place: Place, now_s: float, limits: Limits) -> Iterator[str]:
    """Yield why a seat must not be taken from an item that is in use: its callers would wait in vain."""
    served_s = now_s - state.replicas[item, place].since_s
    if not state.takes_seat(item, place):
        yield "only an adapter's seat is drained"
    elif served_s < limits.hold_s:
        yield f"it has served for only {format_seconds(served_s)}"
    elif any(state.replicas[other, place].phase == "leaving" for other in state.shelves[place]):
        yield f"another is leaving {place} already"
    elif not any(
        now_s - want.since_s >= limits.drain_after_s
        for wanted in state.lines.get(place, ())
        if (wanted, place) not in state.replicas
        for want in state.queue[wanted]
    ):
        yield f"nobody has waited for {place} for {format_seconds(limits.drain_after_s)}"


def _against_losing(state: State, item: Item, place: Place, now_s: float) -> Iterator[str]:
    """Yield why a registered item must stay at a place where it is ready."""
    spec = state.items[item]
    if place == spec.durable:
        yield "the durable copy"
    elif not state.ready(item, spec.durable):
        yield f"its durable copy at {spec.durable} is out of reach"
    elif spec.kind == "shard":
        yield from _against_losing_index(state, item, place)
    if place == state.home(item) and state.pinned(item):
        yield "pinned"
    yield from _against_turning_back(state, item, place)
    if state.serves(item, place):
        if spec.kind == "adapter" and state.wanted(item):
            yield "wanted"
        if now_s < state.holds.get(item, now_s):
            yield "granted a moment ago"


def _against_losing_index(state: State, item: Item, place: Place) -> Iterator[str]:
    """Yield why an index of a shard must stay; they leave one by one, so that a fault finds one more."""
    durable = state.items[item].durable
    others = [other for other in state.spots[item] if other not in (place, durable)]
    if not any(state.ready(item, other) for other in others):
        yield "the only index of the shard"
    elif any(state.replicas[item, other].phase == "leaving" for other in others):
        yield "another index of the shard is leaving"


def _against_turning_back(state: State, item: Item, place: Place) -> Iterator[str]:
    """Yield why a copy that is only a stage of the item's way must stay until the item is through."""
    ordered = state.moves.get(item)
    if ordered is not None and place == ordered.landing:
        yield f"on its way to {ordered.to}"
    elif place == state.landing(item) and state.items[item].durable == NETWORK:
        goal, home = state.goal(item), state.home(item)
        called = state.wanted(item) or item in state.warms
        if called and (item, goal) not in state.replicas and goal != place:
            yield f"on its way to {goal}"
        elif (ordered is not None or state.pinned(item)) and (item, home) not in state.replicas:
            yield f"on its way to {home}"


def occupants(state: State, place: Place) -> str:
    """Return who is at a place and what keeps each there: "coder (2 leases), critic (pinned)"."""
    shelf = state.shelves.get(place, {})
    told = [
        f"{state.items[item].name} ({_keeps(state, item, state.replicas[item, place])})" for item in shelf
    ]
    told += [f"{item} (not registered)" for item in state.strangers.get(place, {})]
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return ", ".join(told[:SHOWN]) + more or "nobody"


def _keeps(state: State, item: Item, replica: Replica) -> str:
    if replica.phase != "ready":
        return replica.phase
    if replica.leases:
        return f"{replica.leases} lease{'s' if replica.leases > 1 else ''}"
    if state.wanted(item):
        return "wanted"
    return "pinned" if state.pinned(item) else "idle"
