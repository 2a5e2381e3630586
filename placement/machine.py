"""The brain: events in, commands out. It never waits, reads no clock and throws no dice."""

from collections.abc import Iterable, Iterator

from placement import policies
from placement.apply import apply
from placement.messages import (
    Beat,
    Command,
    Copied,
    Copy,
    CopyFailed,
    Drop,
    Dropped,
    DropRefused,
    Event,
    NodeJoined,
    NodeLost,
    Refuse,
    Registered,
    Tick,
    Wanted,
    WantEnded,
    describe,
)
from placement.plan import plan
from placement.policies import Policy
from placement.state import Item, Limits, Move, State

#: ops whose late answers can still be told
OPS = 1000


class Machine:
    """Decides for one lab. One owner calls `handle` with every event, as it learns of them.

    `state` is a frozen value to read, valid until the next `handle`. Equal events at equal times give equal
    commands.

    `news` is what the last `handle` learned of each item, for the owner to write down: registrations and
    orders, what a node's news or a Tick changed, wants given up, moves done or undone (with the reason, if
    there is one), wants refused, and answers to ops that had already ended. Not in it: the Copy, Drop and
    Grant commands, answers to open ops, and Wanted, which the owner knows and writes down itself.
    """

    def __init__(self, limits: Limits, epoch: int, policies: tuple[Policy, ...] = policies.DEFAULT) -> None:
        self.limits = limits
        self.state = State(epoch=epoch)
        self._policies = policies
        self.news: tuple[tuple[Item, str], ...] = ()
        self._op_items: dict[str, Item] = {}

    def handle(self, event: Event, now_s: float) -> list[Command]:
        """Take in one fact and return the work that the lab now calls for, in order.

        Each Copy and Drop is answered by an event with its op; an answer that never comes ends by its
        deadline at a Tick. `now_s` never goes back. Raises UserError or WorldError for an event that cannot
        be (unknown item or node) or an order that cannot be met (codes in `placement.apply`); then nothing
        has changed, and there is no news.
        """
        before, self.news = self.state, ()
        applied = state = apply(before, event, now_s, self.limits)
        commands: list[Command] = []
        items = _touched(before, applied, event)
        for policy in self._policies:
            planned = plan(state, policy(state, items, now_s, self.limits), now_s, self.limits)
            state = planned.state
            commands.extend(planned.commands)
        self.state = state
        refused = ((command.item, describe(command)) for command in commands if isinstance(command, Refuse))
        self.news = (*self._news(before, applied, event), *refused)
        self._remember(commands)
        return commands

    def _remember(self, commands: Iterable[Command]) -> None:
        """Keep whose each op was, for an answer that comes after its end."""
        for command in commands:
            if isinstance(command, Copy | Drop):
                self._op_items[command.op] = command.item
        while len(self._op_items) > OPS:
            del self._op_items[next(iter(self._op_items))]

    def _news(self, before: State, after: State, event: Event) -> Iterator[tuple[Item, str]]:
        """Yield what an event says about an item; of a node's news and a Tick, what they changed."""
        match event:
            case Copied(op) | CopyFailed(op) | Dropped(op) | DropRefused(op):
                if op in self._op_items and op not in before.ops:
                    yield self._op_items[op], f"{describe(event)}; too late, a beat decides"
            case Registered(spec):
                yield spec.item, describe(event)
            case Wanted():
                pass
            case WantEnded(want):
                if want in before.wants:
                    yield before.wants[want].item, describe(event)
            case NodeJoined() | NodeLost() | Beat() | Tick():
                yield from _changes(before, after, describe(event))
            case _:
                yield event.item, describe(event)
        for item, move in before.moves.items():
            if item in after.items and item not in after.moves:
                yield item, _end_of(move, after, item)


def _end_of(move: Move, after: State, item: Item) -> str:
    if after.ready(item, move.to):
        return f"move to {move.to} done"
    setback = after.backoff.get((item, move.to))
    why = f": {setback}" if setback is not None else ""
    return f"move to {move.to} undone{why}"


def _touched(before: State, after: State, event: Event) -> list[Item]:
    """Return whom an event is about: all items on a Tick, those held there for a node's news, else one."""
    match event:
        case Tick():
            return list(after.items)
        case NodeJoined(node) | NodeLost(node) | Beat(node):
            shelves = (
                shelf
                for state in (before, after)
                for place, shelf in state.shelves.items()
                if place.node == node
            )
            touched = [item for shelf in shelves for item in shelf]
        case Copied(op) | CopyFailed(op) | Dropped(op) | DropRefused(op):
            touched = [before.ops[op].command.item] if op in before.ops else []
        case Registered(spec):
            touched = [spec.item]
        case WantEnded():
            touched = []
        case _:
            touched = [event.item]
    return [item for item in dict.fromkeys(touched) if item in after.items]


def _changes(before: State, after: State, cause: str) -> Iterator[tuple[Item, str]]:
    for op, running in before.ops.items():
        if op not in after.ops:
            yield running.command.item, f"op {op} ended without an answer ({cause})"
    if before.spots is after.spots:
        return
    for item, places in after.spots.items():
        known = before.spots.get(item, ())
        if places is not known:
            yield from ((item, f"no longer at {place} ({cause})") for place in known if place not in places)
            yield from ((item, f"found at {place} ({cause})") for place in places if place not in known)
