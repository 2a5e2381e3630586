"""What must always hold: checked after every event in tests, in simulation and in the running lab."""

import math

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


def check(state: State, limits: Limits) -> None:
    """Raise InvariantBroken with the numbers of the first rule of the design's section 5 that is broken."""
    _check_durable(state)
    for place in state.rooms:
        _check_room(state, place, limits)
    for name, op in state.ops.items():
        _check_op(state, name, op)
    for item, place in state.replicas:
        _check_replica(state, item, place)
    _check_indexes(state)
    _check_lists(state)
    _check_strays(state)


def _broken(rule: str, numbers: str) -> InvariantBroken:
    return InvariantBroken("TRC090", f"broken rule: {rule}: {numbers}", "please report this with the journal")


def _check_durable(state: State) -> None:
    for item, spec in state.items.items():
        replica = state.replicas.get((item, spec.durable))
        kept = (
            item in state.retired or item in state.gone or (replica is not None and replica.phase == "ready")
        )
        if not kept:
            raise _broken("1, every item has a durable copy", f"{item} at {spec.durable} is {replica}")


def _check_room(state: State, place: Place, limits: Limits) -> None:
    room, shelf = state.rooms[place], state.shelves.get(place, {})
    if place not in state.over and is_overfull(state, place):
        seats = {base: state.seated(place, base) for base in room.seats}
        raise _broken(
            "5, no budget is exceeded",
            f"{place} holds {state.used(place)} of {room.capacity} bytes, "
            f"seats {seats} of {dict(room.seats)}",
        )
    here = [state.replicas[item, place] for item in shelf]
    loading = sum(replica.phase == "loading" and replica.op in state.ops for replica in here)
    if loading > limits.copies_per_place:
        raise _broken(
            "5, copies in flight are bounded", f"{loading} into {place}, and {limits.copies_per_place} may be"
        )


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
        if place.tier is Tier.VRAM and place != serves_at:
            raise _broken("an adapter is in its engine only", f"{command}, and it serves at {serves_at}")


def _check_replica(state: State, item: Item, place: Place) -> None:
    replica, spec = state.replicas[item, place], state.items[item]
    if place not in state.spots[item] or item not in state.shelves[place]:
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
    counts = (
        len(state.replicas),
        sum(len(places) for places in state.spots.values()),
        sum(len(shelf) for shelf in state.shelves.values()),
    )
    if len(set(counts)) > 1:
        raise _broken("the indexes agree", "{} replicas, {} spots, {} shelved".format(*counts))
    for place, shelf in state.shelves.items():
        tally = count(state, place)
        if state.tallies.get(place, EMPTY) != tally:
            raise _broken("the indexes agree", f"{place} has {tally}, not {state.tallies.get(place)}")
        for item, nbytes in shelf.items():
            due = bytes_at(state, item, place)
            if nbytes != due:
                raise _broken(
                    "bytes are counted as registered", f"{item} takes {nbytes} at {place}, not {due}"
                )


def _check_lists(state: State) -> None:
    """Check the indexes of wants and of names, and that nobody is forgotten by the Ticks to come."""
    queued = {want.want: want for wants in state.queue.values() for want in wants}
    misplaced = [item for item, wants in state.queue.items() if {want.item for want in wants} != {item}]
    if queued != state.wants or misplaced:
        raise _broken("the indexes agree", f"{dict(state.queue)} is not the queue of {dict(state.wants)}")
    lined = [(item, place) for place, line in state.lines.items() for item in line]
    if sorted(lined) != sorted((item, state.goal(item)) for item in state.queue):
        raise _broken("the indexes agree", f"{lined} wait for {dict(state.queue)}")
    followed = {(name, item) for name, items in state.followers.items() for item in items}
    named = {(name, item) for item, spec in state.items.items() for name in spec.after}
    if followed != named:
        raise _broken("the indexes agree", f"{sorted(followed ^ named)} are in one of them only")
    for item in state.items:
        look = look_s(state, item, state.now_s)
        due = state.due.get(item, math.inf)
        if due > max(look, state.now_s):
            raise _broken("who has to be looked at is due", f"{item} at {due}, not at {look}")


def _check_strays(state: State) -> None:
    """Check that nothing is remembered for an item that is not there, and no order that is done."""
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
        "gone": set(state.gone),
        "retired": set(state.retired),
        "spots": set(state.spots),
        "due": set(state.due),
        "backoff": {item for item, _ in state.backoff},
        "wants": {want.item for want in state.wants.values()},
        "ops": {op.command.item for op in state.ops.values()},
    }
    for field, items in named.items():
        if not items <= state.items.keys():
            raise _broken("no dead state", f"{field} speaks of {sorted(items - state.items.keys())}")
    if not state.items.keys() <= named["uses"]:
        raise _broken("every item has a last use", f"{sorted(state.items.keys() - named['uses'])} have none")
    done = [item for item in state.moves if is_done(state, item)]
    if done:
        raise _broken("9, a move that is done has ended", f"{done} are at their new homes")
