"""What must always hold: checked after every event in tests, in simulation and in the running lab."""

import math
from collections.abc import Iterable

from placement.change import bytes_at
from placement.due import look_s
from placement.errors import TierceError
from placement.messages import Copy
from placement.orders import is_done
from placement.pressure import is_overfull
from placement.state import NETWORK, Item, Limits, Op, Place, State
from placement.tally import EMPTY, count
from placement.tiers import Tier


class InvariantBroken(TierceError):
    """TRC090: the brain's state contradicts a rule that always holds. A bug of Tierce, never of the user."""


def check(state: State, limits: Limits, items: Iterable[Item] | None = None) -> None:
    """Raise InvariantBroken with the numbers of the first rule of the design's section 5 that is broken.

    With `items`, only these are looked at, with the places where they are and all ops: of `state.changed`,
    that is what the last event can have broken by what it did to them, at the cost of what it was about. An
    item among them that is gone makes it the whole check. What else may be broken, the whole check finds:
    it belongs after each Tick.
    """
    asked = state.items if items is None else dict.fromkeys(items)
    known = [item for item in asked if item in state.items]
    spots = [(item, place) for item in known for place in state.spots.get(item, ())]
    whole = items is None or len(known) < len(asked)
    for item, place in spots:
        _check_replica(state, item, place)
    for item in known:
        _check_item(state, item)
    for name, op in state.ops.items():
        _check_op(state, name, op)
    places = (*state.rooms, *state.shelves) if whole else (place for _, place in spots)
    for place in dict.fromkeys(places):
        _check_place(state, place, limits)
    if whole:
        _check_indexes(state)
        _check_strays(state)


def _broken(rule: str, numbers: str) -> InvariantBroken:
    return InvariantBroken("TRC090", f"broken rule: {rule}: {numbers}", "please report this with the journal")


def _check_item(state: State, item: Item) -> None:
    """Check that an item is kept, stands in line if it is wanted, and is looked at by the Ticks to come."""
    spec = state.items[item]
    replica = state.replicas.get((item, spec.durable))
    kept = item in state.retired or item in state.gone or (replica is not None and replica.phase == "ready")
    if not kept:
        raise _broken("1, every item has a durable copy", f"{item} at {spec.durable} is {replica}")
    if item not in state.uses:
        raise _broken("every item has a last use", f"{item} has none")
    if item in state.moves and is_done(state, item):
        raise _broken("9, a move that is done has ended", f"{item} is at its new home")
    several = spec.kind == "adapter" and len(spec.serves_at) > 1
    if (item in state.aims) != several or (several and state.aims[item] not in spec.serves_at):
        raise _broken("an item has one engine to be ready in", f"{item} in {state.aims.get(item)}")
    queue = state.queue.get(item, ())
    unknown = [want for want in queue if want.item != item or state.wants.get(want.want) != want]
    in_line = item in state.lines.get(state.goal(item), ())
    if unknown or in_line != bool(queue):
        raise _broken("the indexes agree", f"{queue} wait for {item}, {unknown} unknown; in line: {in_line}")
    unfollowed = [name for name in spec.after if item not in state.followers.get(name, ())]
    if unfollowed:
        raise _broken("the indexes agree", f"{item} does not follow {unfollowed}")
    look, due = look_s(state, item, state.now_s), state.due.get(item, math.inf)
    if due > max(look, state.now_s):
        raise _broken("who has to be looked at is due", f"{item} at {due}, not at {look}")


def _check_place(state: State, place: Place, limits: Limits) -> None:
    """Check that a place holds no more than it may, and that it was counted right."""
    room, shelf = state.rooms.get(place), state.shelves.get(place, {})
    if room is not None and place not in state.over and is_overfull(state, place):
        seats = {base: state.seated(place, base) for base in room.seats}
        raise _broken(
            "5, no budget is exceeded",
            f"{place} holds {state.used(place)} of {room.capacity} bytes, "
            f"seats {seats} of {dict(room.seats)}",
        )
    here = [state.replicas.get((item, place)) for item in shelf]
    loading = sum(each is not None and each.phase == "loading" and each.op in state.ops for each in here)
    if room is not None and loading > limits.copies_per_place:
        raise _broken(
            "5, copies in flight are bounded", f"{loading} into {place}, and {limits.copies_per_place} may be"
        )
    if None in here:
        raise _broken("the indexes agree", f"{place} has {list(shelf)} on its shelf, and not all are there")
    tally = count(state, place)
    if state.tallies.get(place, EMPTY) != tally:
        raise _broken("the indexes agree", f"{place} has {tally}, not {state.tallies.get(place)}")
    for item, nbytes in shelf.items():
        if nbytes != (due := bytes_at(state, item, place)):
            raise _broken("bytes are counted as registered", f"{item} takes {nbytes} at {place}, not {due}")


def _check_op(state: State, name: str, op: Op) -> None:
    command = op.command
    place, phase = (command.target, "loading") if isinstance(command, Copy) else (command.place, "leaving")
    replica = state.replicas.get((command.item, place))
    if replica is None or replica.phase != phase or replica.op != name:
        raise _broken("8, an op has its own replica", f"{name} is {command}, and its replica is {replica}")
    if isinstance(command, Copy):
        read = state.replicas.get((command.item, command.source))
        if read is not None and read.phase == "leaving":
            raise _broken("2, the source stays until the copy ends", f"{command} reads {read}")
        if command.source == NETWORK and place.tier is not Tier.SSD:
            raise _broken("what comes from an address lands on an SSD first", f"{command}")
        serves_at = state.items[command.item].serves_at
        if place.tier is Tier.VRAM and place not in serves_at:
            raise _broken("an adapter is in its engines only", f"{command}, and it serves at {serves_at}")


def _check_replica(state: State, item: Item, place: Place) -> None:
    replica, spec = state.replicas.get((item, place)), state.items[item]
    if replica is None or item not in state.shelves.get(place, ()):
        raise _broken("the indexes agree", f"{item} at {place} is in one of them only")
    if replica.leases < 0:
        raise _broken("6, leases are counted", f"{item} at {place} has {replica.leases}")
    if (replica.phase == "ready") != (replica.op == ""):
        raise _broken("8, only an op changes a replica", f"{item} at {place} is {replica}")
    if place == NETWORK and replica.phase != "ready":
        raise _broken("an address is always there", f"{item} at {place} is {replica}")
    if replica.phase != "leaving" or item in state.retired:
        return
    if place == spec.durable:
        raise _broken("1, a durable copy never leaves", f"{item} at {place} is {replica}")
    indexes = [state.replicas[item, other].phase for other in state.spots[item] if other != spec.durable]
    if spec.kind == "shard" and len(indexes) > 1 and set(indexes) == {"leaving"}:
        raise _broken("2, a shard keeps an index", f"all {len(indexes)} of {item} are leaving")


def _check_indexes(state: State) -> None:
    """Check that no index has more than what the items, each looked at, have in it."""
    counts = (
        len(state.replicas),
        sum(len(places) for places in state.spots.values()),
        sum(len(shelf) for shelf in state.shelves.values()),
    )
    if len(set(counts)) > 1:
        raise _broken("the indexes agree", "{} replicas, {} spots, {} shelved".format(*counts))
    if len(state.wants) != sum(len(wants) for wants in state.queue.values()):
        raise _broken("the indexes agree", f"{dict(state.queue)} is not the queue of {dict(state.wants)}")
    if len(state.queue) != sum(len(line) for line in state.lines.values()):
        raise _broken("the indexes agree", f"{dict(state.lines)} wait for {dict(state.queue)}")
    followed = {(name, item) for name, items in state.followers.items() for item in items}
    named = {(name, item) for item, spec in state.items.items() for name in spec.after}
    if followed != named:
        raise _broken("the indexes agree", f"{sorted(followed ^ named)} are in one of them only")


def _check_strays(state: State) -> None:
    """Check that nothing is remembered for an item that is not there."""
    named: dict[str, set[Item]] = {
        "homes": set(state.homes),
        "pins": set(state.pins),
        "moves": set(state.moves),
        "leaves": set(state.leaves),
        "warms": set(state.warms),
        "unloads": set(state.unloads),
        "lowered": set(state.lowered),
        "uses": set(state.uses),
        "holds": set(state.holds),
        "expected": set(state.expected),
        "patience": set(state.patience),
        "heat": set(state.heat),
        "aims": set(state.aims),
        "gone": set(state.gone),
        "retired": set(state.retired),
        "spots": set(state.spots),
        "queue": set(state.queue),
        "due": set(state.due),
        "backoff": {item for item, _ in state.backoff},
        "wants": {want.item for want in state.wants.values()},
        "ops": {op.command.item for op in state.ops.values()},
    }
    for field, items in named.items():
        if not items <= state.items.keys():
            raise _broken("no dead state", f"{field} speaks of {sorted(items - state.items.keys())}")
