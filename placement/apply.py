"""What becomes true: `apply` records an event, `begin` records that a command was given. Neither decides."""

import math
from dataclasses import replace

from placement.aim import aim_anew
from placement.beat import observe
from placement.change import (
    add_want,
    end_ops,
    end_want,
    expire_ops,
    fail_for_good,
    forget,
    lift_pauses,
    line_up_anew,
    lose_node,
    put,
    set_back,
    stay,
    touch,
    use,
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
    WarmCancelled,
    WarmOrdered,
)
from placement.orders import arrive, is_done, obey, roll_back
from placement.patience import be_hasty, be_patient
from placement.pressure import is_overfull, press
from placement.roster import register, remains, retire
from placement.routes import setback
from placement.speed import learned
from placement.state import NETWORK, Item, Limits, Node, Op, Place, Replica, State, Want
from placement.units import format_seconds
from placement.warmth import expire, follow, settle


def apply(state: State, event: Event, now_s: float, limits: Limits) -> State:
    """Return the draft in which `event` has happened; `state` is what it was, whatever is raised.

    Raises UserError for what names an unknown item or node (TRC020, TRC021), for an order that can never be
    met (TRC022 no room, TRC023 no such place for it) and for a wrong registration (TRC024). An answer to an
    unknown op, or a want that already ended, changes nothing.
    """
    draft = state.draft()
    draft.now_s = now_s
    match event:
        case NodeJoined():
            _join(draft, event, now_s)
        case NodeLost(node, reason):
            if node not in draft.nodes:
                raise UserError("TRC021", f"cannot lose {node}: no such node")
            if draft.alive(node):
                lose_node(draft, node, reason, now_s)
        case Registered():
            register(draft, event, now_s, limits)
        case Removed(item):
            _known(draft, item)
            retire(draft, item)
        case Wanted():
            _want(draft, event, now_s)
        case WantEnded(want):
            end_want(draft, want)
        case Beat():
            observe(draft, event, now_s, limits)
        case MoveOrdered(item) | PinSet(item) | UnloadOrdered(item) | WarmOrdered(item) | WarmCancelled(item):
            _known(draft, item)
            obey(draft, event, now_s, limits)
            draft.changed[item] = None
        case Tick():
            _tick(draft, now_s, limits)
        case _:
            _answered(draft, event, now_s, limits)
    _tidy(draft)
    return draft


def begin(draft: State, command: Command, now_s: float, limits: Limits) -> None:
    """Record in a draft that `command` was given: room taken, replica marked, want ended."""
    match command:
        case Copy(op, item, _, target, nbytes):
            running = Op(command, now_s, now_s + limits.op_s + nbytes / limits.slowest_nbytes_s)
            draft.ops, draft.issued = {**draft.ops, op: running}, draft.issued + 1
            put(draft, {(item, target): Replica("loading", now_s, now_s, op=op)})
        case Drop(op, item, place):
            running = Op(command, now_s, now_s + limits.op_s)
            draft.ops, draft.issued = {**draft.ops, op: running}, draft.issued + 1
            old = draft.replicas[item, place]
            put(draft, {(item, place): replace(old, phase="leaving", since_s=now_s, op=op)})
        case Grant(want, item, place):
            end_want(draft, want)
            use(draft, item, now_s)
            draft.own("holds")[item] = now_s + limits.grace_s
            old = draft.replicas[item, place]
            put(draft, {(item, place): replace(old, used_s=now_s, owed=old.owed + 1)})
            follow(draft, [item], now_s, limits)
        case Refuse(want):
            end_want(draft, want)


def _known(state: State, item: Item) -> None:
    if item not in state.items:
        raise UserError("TRC020", f"unknown item {item!r}", "`tierce ps` lists the items")
    if item in state.retired:
        raise UserError("TRC025", f"{item} was removed from the lab")


def _join(draft: State, event: NodeJoined, now_s: float) -> None:
    if event.node == NETWORK.node:
        raise UserError("TRC021", f"{event.node} is no node: it is where addresses lead")
    foreign = sorted(str(place) for place in event.rooms if place.node != event.node)
    if foreign:
        raise UserError(
            "TRC021", f"node {event.node} cannot offer {', '.join(foreign)}: another node's place"
        )
    closed = {place for place in draft.shelves if place.node == event.node and place not in event.rooms}
    shut = {
        (item, place): None
        for place in sorted(closed)
        for item in draft.shelves[place]
        if place != draft.items[item].durable
    }
    fresh = not draft.alive(event.node)
    since_s = now_s if fresh else draft.nodes[event.node].since_s
    rooms = {place: room for place, room in draft.rooms.items() if place.node != event.node}
    draft.nodes = {**draft.nodes, event.node: Node(True, since_s, now_s)}
    draft.rooms = rooms | dict(event.rooms)
    draft.seen = {
        place: at_s
        for place, at_s in draft.seen.items()
        if place.node != event.node or (not fresh and place in event.rooms)
    }
    draft.over |= set(event.rooms)
    draft.gauges = {place: gauges for place, gauges in draft.gauges.items() if place in draft.rooms}
    draft.pressed = {place: at_s for place, at_s in draft.pressed.items() if place in draft.rooms}
    # where an item may rest depends on which rooms there are
    draft.due = dict.fromkeys(draft.items, -math.inf)
    touch(draft, event.node)
    if fresh:
        lift_pauses(draft, event.node, now_s)
    end_ops(draft, [draft.replicas[key].op for key in shut])
    put(draft, shut)


def _want(draft: State, event: Wanted, now_s: float) -> None:
    item = event.item
    _known(draft, item)
    if event.want in draft.wants:
        return
    aim_anew(draft, [item])
    add_want(draft, Want(event.want, item, event.deadline_s, now_s, event.cause))
    be_patient(draft, item, now_s)
    use(draft, item, now_s)
    asked(draft, item)
    stay(draft, item)
    draft.unloads = without(draft.unloads, item)
    draft.lowered = without(draft.lowered, item)


def _answered(draft: State, answer: Answer, now_s: float, limits: Limits) -> None:
    running = draft.ops.get(answer.op)
    if running is None:
        return
    end_ops(draft, [answer.op])
    match running.command, answer:
        case Copy(_, item, source, place), Copied(_, nbytes, took_s):
            draft.speeds = learned(draft.speeds, source, place, nbytes, took_s)
            ready = replace(draft.replicas[item, place], phase="ready", since_s=now_s, op="")
            put(draft, {(item, place): ready})
            draft.backoff = without(draft.backoff, (item, place))
        case Copy(_, item, _, place), CopyFailed(_, code, reason, permanent):
            put(draft, {(item, place): None})
            if permanent:
                _fail_for_good(draft, item, place, now_s, limits, (code, reason))
            else:
                set_back(draft, item, place, now_s, limits, (code, reason))
        case Drop(_, item, place), Dropped():
            put(draft, {(item, place): None})
            draft.own("settled")[place] = now_s
        case Drop(_, item, place), DropRefused(_, leases):
            old = draft.replicas[item, place]
            kept = replace(old, phase="ready", since_s=now_s, leases=leases, op="")
            put(draft, {(item, place): kept})
            set_back(draft, item, place, now_s, limits, ("TRC011", f"in use by {leases}"))
        case _:
            raise UserError("TRC026", f"{answer} does not answer {running.command}")


def _fail_for_good(
    draft: State, item: Item, place: Place, now_s: float, limits: Limits, why: tuple[str, str]
) -> None:
    fail_for_good(draft, item, place, why)
    ordered = draft.moves.get(item)
    if ordered is None or place not in (ordered.to, ordered.landing):
        return
    if place != ordered.to:
        set_back(draft, item, ordered.to, now_s, limits, why)
    roll_back(draft, item)


def _tick(draft: State, now_s: float, limits: Limits) -> None:
    late = now_s - draft.ticked_s > limits.beat_timeout_s / 2
    draft.ticked_s = now_s
    expire_ops(draft, now_s, limits)
    for name, node in draft.nodes.items():
        if node.alive and late:
            draft.nodes = {**draft.nodes, name: replace(node, last_beat_s=now_s)}
        elif node.alive and now_s - node.last_beat_s >= limits.beat_timeout_s:
            lose_node(draft, name, f"no beat for {now_s - node.last_beat_s:.1f} s", now_s)
    for item, ordered in draft.moves.items():
        if now_s >= ordered.deadline_s:
            why = f"it was not at {ordered.to} within {format_seconds(limits.move_s)}"
            if (last := setback(draft, item, ordered.to)) is not None:
                why += f", {last.reason}"
            set_back(draft, item, ordered.to, now_s, limits, ("TRC012", why))
            roll_back(draft, item)
    expire(draft, now_s)
    press(draft, draft.rooms, now_s, limits)
    if draft.holds:
        draft.holds = {item: until_s for item, until_s in draft.holds.items() if now_s < until_s}
    be_hasty(draft, now_s)
    if draft.expected:
        draft.expected = {item: until_s for item, until_s in draft.expected.items() if now_s < until_s}
    if draft.backoff:
        stale_s = now_s - 2 * limits.backoff_max_s
        draft.backoff = {key: setback for key, setback in draft.backoff.items() if setback.until_s > stale_s}


def _tidy(draft: State) -> None:
    """Let go of orders that are done, of items that are gone and of places that fit again."""
    if draft.retired:
        _forget_removed(draft)
    for item in draft.changed:
        if item in draft.moves and is_done(draft, item):
            arrive(draft, item)
    waiting = (*draft.queue, *draft.warms) if draft.now_s == draft.ticked_s else ()
    aim_anew(draft, (*draft.changed, *waiting))
    if draft.queue:
        line_up_anew(draft)
    if draft.warms or draft.unloads:
        settle(draft, draft.changed)
    if draft.leaves:
        left = {item: places & set(draft.spots.get(item, ())) for item, places in draft.leaves.items()}
        draft.leaves = {item: places for item, places in left.items() if places}
    if draft.over:
        draft.over = frozenset(place for place in draft.over if is_overfull(draft, place))


def _forget_removed(draft: State) -> None:
    if not draft.seen.keys() >= draft.rooms.keys():
        return
    for item in sorted(draft.retired):
        in_flight = any(running.command.item == item for running in draft.ops.values())
        kept = set(draft.spots.get(item, ())) <= remains(draft, item)
        if kept and not in_flight and not draft.wanted(item):
            forget(draft, item)
