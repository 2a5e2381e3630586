"""The brain: events in, commands out. It never waits, reads no clock and throws no dice."""

from collections.abc import Iterable
from copy import copy
from dataclasses import replace

from placement import policies
from placement.apply import apply
from placement.due import due_items, due_there, first_in_line, schedule
from placement.habits import Habits
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
    WantEnded,
    describe,
)
from placement.news import news, warmth
from placement.plan import admit
from placement.policies import Policy
from placement.state import Item, Limits, State

#: ops whose late answers can still be told
OPS = 1000


class Machine:
    """Decides for one lab. One owner calls `handle` with every event, as it learns of them.

    `state` is a value to read, which stays as it is: the next `handle` makes another. Equal events at equal
    times give equal commands.

    `news` is what the last `handle` learned of each item, for the owner to write down: registrations and
    orders, what a node's news or a Tick changed, wants given up, moves, warm and unload orders done or undone
    (with the reason, if there is one), durable copies that changed their place, wants refused, and answers
    to ops that had already ended. Not in it: the Copy, Drop and Grant commands, answers to open ops, and
    Wanted, which the owner knows and writes down itself.
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
        draft = apply(before, event, now_s, self.limits)
        told = tuple(news(before, draft, event, self._op_items))
        commands: list[Command] = []
        items = _touched(before, draft, event)
        for policy in self._policies:
            commands += admit(draft, policy(draft, items, now_s, self.limits), now_s, self.limits)
        schedule(draft, dict.fromkeys((*draft.changed, *items)), now_s)
        self.state = draft
        refused = ((command.item, describe(command)) for command in commands if isinstance(command, Refuse))
        self.news = (*told, *warmth(before, draft, event), *refused)
        self._remember(commands)
        return commands

    def fork(self) -> "Machine":
        """Return a Machine that goes on from here by itself: neither learns of what the other is told.

        Fork where `handle` is called; the copy may then run in another thread.
        """
        twin = copy(self)
        twin._op_items = dict(self._op_items)  # noqa: SLF001  (one of us)
        return twin

    def remember(self, habits: Habits) -> None:
        """Begin with habits that another Machine of this lab has learned; before the first event."""
        self.state = replace(self.state, habits=habits)

    def _remember(self, commands: Iterable[Command]) -> None:
        """Keep whose each op was, for an answer that comes after its end."""
        for command in commands:
            if isinstance(command, Copy | Drop):
                self._op_items[command.op] = command.item
        while len(self._op_items) > OPS:
            del self._op_items[next(iter(self._op_items))]


def _answered(command: Copy | Drop, after: State) -> list[Item]:
    """Return whom the end of an op is about: its item, and who waits for the room that it may have left."""
    place = command.target if isinstance(command, Copy) else command.place
    return [command.item, *first_in_line(after, place)]


def _touched(before: State, after: State, event: Event) -> list[Item]:
    """Return whom an event is about: whom a Tick or a node's news changed or found due, else one."""
    touched: Iterable[Item]
    match event:
        case Tick():
            touched = (*due_items(after, after.now_s), *after.changed)
        case NodeJoined(node) | NodeLost(node) | Beat(node):
            touched = (*after.changed, *due_there(after, node, after.now_s))
        case Copied(op) | CopyFailed(op) | Dropped(op) | DropRefused(op):
            touched = _answered(before.ops[op].command, after) if op in before.ops else []
        case Registered(spec):
            touched = [spec.item]
        case WantEnded():
            touched = []
        case _:
            touched = [event.item]
    return [item for item in dict.fromkeys(touched) if item in after.items]
