"""A Machine run ahead: every copy and drop answered in virtual time, until the lab is at rest."""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from placement.errors import TierceError
from placement.machine import Machine
from placement.messages import (
    Beat,
    Command,
    Copied,
    Copy,
    Drop,
    Dropped,
    Event,
    NodeJoined,
    Seen,
    Tick,
    WantEnded,
)
from placement.speed import seconds
from placement.state import Gauge, Item, Place, Replica, State

PULSE_S = 1.0
#: at rest is what gave no command for so long, with nothing in flight
QUIET_S = 5.0
#: an answer comes at the latest so long before its op would be given up
MARGIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Step:
    """A command that the Machine will give `begins_s` after the start, and how long it is likely to take."""

    command: Copy | Drop
    begins_s: float
    took_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """An event that the Machine does not take, and why."""

    event: Event
    error: TierceError


@dataclass(slots=True)
class Ahead:
    """What will be: the commands in their order, what is refused, and the state at rest after `took_s`."""

    steps: list[Step] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    state: State = field(default_factory=lambda: State(epoch=0))
    took_s: float = 0.0


def run_ahead(machine: Machine, events: Callable[[State], Iterable[Event]], now_s: float) -> Ahead:
    """Return what `machine` would do if it were told `events` at `now_s`, and nobody asked anything.

    The machine itself is left alone. `events` gets the state to start from. Requests in flight are taken to
    end at once, and each copy to succeed in the time that such a hop takes.
    """
    return _Run(machine.fork(), now_s).until_rest(events)


class _Run:
    """One run: the copy of the machine, its clock, and the answers that are due."""

    def __init__(self, machine: Machine, now_s: float) -> None:
        self.machine = machine
        self.began_s = self.now_s = self.active_s = now_s
        self.ahead = Ahead()
        self._due: list[tuple[float, int, Event]] = []
        self._sent = 0

    @property
    def state(self) -> State:
        return self.machine.state

    def until_rest(self, events: Callable[[State], Iterable[Event]]) -> Ahead:
        for running in list(self.state.ops.values()):
            self._answer(running.command, running.deadline_s)
        for want in list(self.state.wants):
            self._tell(WantEnded(want))
        for event in events(self.state):
            self._tell(event)
            if isinstance(event, NodeJoined):
                self._tell(self._beat(event.node))
        self._pulse()
        while self._due or self.now_s - self.active_s < QUIET_S:
            pulse_s = self.now_s + PULSE_S
            while self._due and self._due[0][0] <= pulse_s:
                due_s, _, answer = heapq.heappop(self._due)
                self.now_s = max(self.now_s, due_s)
                self._tell(answer)
            self.now_s = pulse_s
            self._pulse()
        self.ahead.state = self.state
        return self.ahead

    def _tell(self, event: Event) -> None:
        try:
            commands = self.machine.handle(event, self.now_s)
        except TierceError as error:
            self.ahead.refused.append(Refused(event, error))
            return
        for command in commands:
            self._note(command)

    def _note(self, command: Command) -> None:
        if not isinstance(command, Copy | Drop):
            return
        took_s = self._answer(command, self.state.ops[command.op].deadline_s)
        begins_s = self.now_s - self.began_s
        self.ahead.steps.append(Step(command, begins_s, took_s))
        self.ahead.took_s = max(self.ahead.took_s, begins_s + took_s)

    def _answer(self, command: Copy | Drop, deadline_s: float) -> float:
        """Have a command answered when it is likely to be done; return how long that takes."""
        took_s = 0.0
        answer: Event = Dropped(command.op)
        if isinstance(command, Copy):
            took_s = seconds(self.state, command.source, command.target, command.nbytes)
            answer = Copied(command.op, command.nbytes, took_s)
        self._sent += 1
        due_s = max(self.now_s, min(self.now_s + took_s, deadline_s - MARGIN_S))
        heapq.heappush(self._due, (due_s, self._sent, answer))
        self.active_s = self.now_s + took_s
        return took_s

    def _pulse(self) -> None:
        """Let everyone who is there report, and time pass."""
        for node in self.state.nodes:
            if self.state.alive(node):
                self._tell(self._beat(node))
        self._tell(Tick())

    def _beat(self, node: str) -> Beat:
        """Return the report of a node that holds what the machine believes, with nothing in use."""
        state = self.state
        logs = (place for place in state.shelves if place.node == node and place not in state.rooms)
        places = [*(place for place in state.rooms if place.node == node), *logs]
        gauges: dict[Place, tuple[Gauge, ...]] = {
            place: state.gauges[place] for place in places if place in state.gauges
        }
        return Beat(node, self.now_s, {place: self._held(place) for place in places}, gauges)

    def _held(self, place: Place) -> dict[Item, Seen]:
        state = self.state
        shown = {
            item: self._seen(state.replicas[item, place])
            for item in state.shelves.get(place, {})
            if state.replicas[item, place].phase != "loading"
        }
        strangers = {item: Seen(nbytes=nbytes) for item, nbytes in state.strangers.get(place, {}).items()}
        return shown | strangers

    def _seen(self, replica: Replica) -> Seen:
        return Seen(0, max(0.0, self.now_s - replica.used_s), replica.hits)
