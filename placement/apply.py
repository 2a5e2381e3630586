"""What becomes true: `apply` records an event, `begin` records that a command was given. Neither decides."""

from dataclasses import replace

from placement.beat import observe
from placement.change import (
    end_ops,
    expire_ops,
    fail_for_good,
    forget,
    lose_node,
    put,
    set_back,
    without,
)
from placement.errors import UserError
from placement.heat import asked
from placement.messages import (
    Answer,
    Beat,
    Command,
    Copied,
    Copy,
    CopyFailed,
    Drop,
    Dropped,
    DropRefused,
    Event,
    Grant,
    MoveOrdered,
    NodeJoined,
    NodeLost,
    PinSet,
    Refuse,
    Registered,
    Removed,
    Tick,
    UnloadOrdered,
    Wanted,
    WantEnded,
    WarmOrdered,
)
from placement.orders import arrive, is_done, obey, roll_back
from placement.pressure import is_overfull, press
from placement.roster import register, remains, retire
from placement.routes import setback
from placement.speed import learned
from placement.state import NETWORK, Item, Limits, Node, Op, Replica, State, Want
from placement.units import format_seconds
from placement.warmth import expire, follow, settle


def apply(state: State, event: Event, now_s: float, limits: Limits) -> State:
    """Return the state in which `event` has happened.

    Raises UserError for what names an unknown item or node (TRC020, TRC021), for an order that can never be
    met (TRC022 no room, TRC023 no such place for it) and for a wrong registration (TRC024). An answer to an
    unknown op, or a want that already ended, changes nothing.
    """
    match event:
        case NodeJoined():
            state = _join(state, event, now_s)
        case NodeLost(node, reason):
            if node not in state.nodes:
                raise UserError("TRC021", f"cannot lose {node}: no such node")
            state = lose_node(state, node, reason, now_s) if state.alive(node) else state
        case Registered():
            state = register(state, event, now_s, limits)
        case Removed(item):
            _known(state, item)
            state = retire(state, item)
        case Wanted():
            state = _want(state, event, now_s)
        case WantEnded(want):
            state = replace(state, wants=without(state.wants, want))
        case Beat():
            state = observe(state, event, now_s, limits)
        case MoveOrdered(item) | PinSet(item) | WarmOrdered(item) | UnloadOrdered(item):
            _known(state, item)
            state = obey(state, event, now_s, limits)
        case Tick():
            state = _tick(state, now_s, limits)
        case _:
            state = _answered(state, event, now_s, limits)
    return _tidy(state)


def begin(state: State, command: Command, now_s: float, limits: Limits) -> State:
    """Return the state in which `command` was given: room taken, replica marked, want ended."""
    match command:
        case Copy(op, item, _, target, nbytes):
            running = Op(command, now_s, now_s + limits.op_s + nbytes / limits.slowest_nbytes_s)
            state = replace(state, ops={**state.ops, op: running}, issued=state.issued + 1)
            return put(state, {(item, target): Replica("loading", now_s, now_s, op=op)})
        case Drop(op, item, place):
            running = Op(command, now_s, now_s + limits.op_s)
            state = replace(state, ops={**state.ops, op: running}, issued=state.issued + 1)
            old = state.replicas[item, place]
            return put(state, {(item, place): replace(old, phase="leaving", since_s=now_s, op=op)})
        case Grant(want, item, place):
            state = replace(
                state,
                wants=without(state.wants, want),
                uses={**state.uses, item: now_s},
                holds={**state.holds, item: now_s + limits.hold_s},
                expected=without(state.expected, item),
            )
            state = put(state, {(item, place): replace(state.replicas[item, place], used_s=now_s)})
            return follow(state, [item], now_s, limits)
        case Refuse(want):
            return replace(state, wants=without(state.wants, want))


def _known(state: State, item: Item) -> None:
    if item not in state.items:
        raise UserError("TRC020", f"unknown item {item!r}", "`tierce ps` lists the items")
    if item in state.retired:
        raise UserError("TRC025", f"{item} was removed from the lab")


def _join(state: State, event: NodeJoined, now_s: float) -> State:
    if event.node == NETWORK.node:
        raise UserError("TRC021", f"{event.node} is no node: it is where addresses lead")
    foreign = sorted(str(place) for place in event.rooms if place.node != event.node)
    if foreign:
        raise UserError(
            "TRC021", f"node {event.node} cannot offer {', '.join(foreign)}: another node's place"
        )
    closed = {place for place in state.shelves if place.node == event.node and place not in event.rooms}
    shut = {
        (item, place): None
        for place in sorted(closed)
        for item in state.shelves[place]
        if place != state.items[item].durable
    }
    fresh = not state.alive(event.node)
    since_s = now_s if fresh else state.nodes[event.node].since_s
    rooms = {place: room for place, room in state.rooms.items() if place.node != event.node}
    state = replace(
        state,
        nodes={**state.nodes, event.node: Node(True, since_s, now_s)},
        rooms=rooms | dict(event.rooms),
        seen={
            place: at_s
            for place, at_s in state.seen.items()
            if place.node != event.node or (not fresh and place in event.rooms)
        },
        over=state.over | set(event.rooms),
    )
    state = replace(
        state,
        gauges={place: gauges for place, gauges in state.gauges.items() if place in state.rooms},
        pressed={place: at_s for place, at_s in state.pressed.items() if place in state.rooms},
    )
    ops = [state.replicas[key].op for key in shut]
    return put(end_ops(state, ops), shut)


def _want(state: State, event: Wanted, now_s: float) -> State:
    item = event.item
    _known(state, item)
    if event.want in state.wants:
        return state
    want = Want(event.want, item, event.deadline_s, now_s)
    stays = state.leaves.get(item, frozenset()) - {state.goal(item)}
    state = asked(state, item, owed=1)
    return replace(
        state,
        wants={**state.wants, want.want: want},
        uses={**state.uses, item: now_s},
        leaves={**state.leaves, item: stays} if item in state.leaves else state.leaves,
        unloads=without(state.unloads, item),
    )


def _answered(state: State, answer: Answer, now_s: float, limits: Limits) -> State:
    running = state.ops.get(answer.op)
    if running is None:
        return state
    state = end_ops(state, [answer.op])
    match running.command, answer:
        case Copy(_, item, source, place), Copied(_, nbytes, took_s):
            state = replace(state, speeds=learned(state.speeds, source, place, nbytes, took_s))
            ready = replace(state.replicas[item, place], phase="ready", since_s=now_s, op="")
            state = put(state, {(item, place): ready})
            return replace(state, backoff=without(state.backoff, (item, place)))
        case Copy(_, item, _, place), CopyFailed(_, code, reason, permanent):
            state = put(state, {(item, place): None})
            if not permanent:
                return set_back(state, item, place, now_s, limits, (code, reason))
            state = fail_for_good(state, item, place, (code, reason))
            ordered = state.moves.get(item)
            if ordered is None or place not in (ordered.to, ordered.landing):
                return state
            if place != ordered.to:
                state = set_back(state, item, ordered.to, now_s, limits, (code, reason))
            return roll_back(state, item)
        case Drop(_, item, place), Dropped():
            state = put(state, {(item, place): None})
            return replace(state, settled={**state.settled, place: now_s})
        case Drop(_, item, place), DropRefused(_, leases):
            old = state.replicas[item, place]
            state = put(
                state, {(item, place): replace(old, phase="ready", since_s=now_s, leases=leases, op="")}
            )
            return set_back(state, item, place, now_s, limits, ("TRC011", f"in use by {leases}"))
        case _:
            raise UserError("TRC026", f"{answer} does not answer {running.command}")


def _tick(state: State, now_s: float, limits: Limits) -> State:
    late = now_s - state.ticked_s > limits.beat_timeout_s / 2
    state = expire_ops(replace(state, ticked_s=now_s), now_s, limits)
    for name, node in state.nodes.items():
        if node.alive and late:
            state = replace(state, nodes={**state.nodes, name: replace(node, last_beat_s=now_s)})
        elif node.alive and now_s - node.last_beat_s >= limits.beat_timeout_s:
            state = lose_node(state, name, f"no beat for {now_s - node.last_beat_s:.1f} s", now_s)
    for item, ordered in state.moves.items():
        if now_s >= ordered.deadline_s:
            why = f"it was not at {ordered.to} within {format_seconds(limits.move_s)}"
            if (last := setback(state, item, ordered.to)) is not None:
                why += f", {last.reason}"
            state = set_back(state, item, ordered.to, now_s, limits, ("TRC012", why))
            state = roll_back(state, item)
    stale_s = now_s - 2 * limits.backoff_max_s
    state = press(expire(state, now_s), state.rooms, now_s, limits)
    return replace(
        state,
        holds={item: until_s for item, until_s in state.holds.items() if now_s < until_s},
        expected={item: until_s for item, until_s in state.expected.items() if now_s < until_s},
        backoff={key: setback for key, setback in state.backoff.items() if setback.until_s > stale_s},
    )


def _tidy(state: State) -> State:
    """Return the state without orders that are done, items that are gone and places that fit again."""
    complete = state.seen.keys() >= state.rooms.keys()
    for item in sorted(state.retired) if complete else ():
        in_flight = any(running.command.item == item for running in state.ops.values())
        if (
            set(state.spots.get(item, ())) <= remains(state, item)
            and not in_flight
            and not state.wanted(item)
        ):
            state = forget(state, item)
    for item in [item for item in state.moves if is_done(state, item)]:
        state = arrive(state, item)
    if state.warms or state.unloads:
        state = settle(state)
    if state.leaves:
        left = {item: places & set(state.spots.get(item, ())) for item, places in state.leaves.items()}
        state = replace(state, leaves={item: places for item, places in left.items() if places})
    if state.over:
        state = replace(state, over=frozenset(place for place in state.over if is_overfull(state, place)))
    return state
