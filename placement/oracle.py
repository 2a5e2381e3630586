"""What no command and no Tick of a brain may do, judged beside the brain by rules of its own."""

from dataclasses import dataclass, field

from placement.messages import (
    Command,
    Copied,
    Copy,
    CopyFailed,
    Drop,
    Event,
    MoveOrdered,
    Refuse,
    Registered,
    Tick,
)
from placement.state import NETWORK, Item, Limits, Place, State
from placement.tiers import Tier


@dataclass(slots=True)
class Oracle:
    """Judges one lab over all its coordinators; `faults` names every rule that was broken, with its case."""

    limits: Limits
    faults: list[str] = field(default_factory=list)
    #: every op ever given, and the copies of this coordinator that nobody has answered for
    _ops: dict[str, Command] = field(default_factory=dict)
    _open: dict[str, Copy] = field(default_factory=dict)
    #: when a try last failed; nobody may try again at once
    _failed: dict[tuple[Item, Place], float] = field(default_factory=dict)
    #: nodes that were lost when it last judged; what failed on one may be tried at once when it is back
    _lost: set[str] = field(default_factory=set)
    #: until when the caller of a want may wait
    _deadlines: dict[str, float] = field(default_factory=dict)

    def reborn(self) -> None:
        """A new coordinator knows of no failure before its time."""
        self._failed.clear()
        self._open.clear()
        self._lost.clear()

    def asked(self, want: str, deadline_s: float) -> None:
        self._deadlines[want] = deadline_s

    def heard(self, event: Event, state: State, now_s: float) -> None:
        """Judge what an event left behind; `state` is the one after it."""
        match event:
            case Copied(op):
                self._open.pop(op, None)
            case CopyFailed(op):
                copy = self._open.pop(op, None)
                if copy is not None and (copy.item, copy.target) in state.backoff:
                    self._failed[copy.item, copy.target] = now_s
            case Registered(spec):
                self._lift(spec.item)
            case MoveOrdered(item):
                self._lift(item)
            case Tick():
                self._check_deadlines(state, now_s)
        lost = {name for name, node in state.nodes.items() if not node.alive}
        for key in [key for key in self._failed if key[1].node in self._lost - lost]:
            del self._failed[key]
        self._lost = lost
        self._open = {op: copy for op, copy in self._open.items() if op in state.ops}
        for key in list(self._failed):
            replica = state.replicas.get(key)
            if replica is not None and replica.phase == "ready":
                del self._failed[key]

    def judge(self, command: Command, state: State, now_s: float) -> None:
        """Judge a command; `state` is the one in which it has been given."""
        match command:
            case Copy(op, item, _, target):
                self._issue(op, command)
                self._open[op] = command
                failed_s = self._failed.pop((item, target), None)
                if failed_s is not None and now_s < failed_s + self.limits.backoff_s:
                    self.faults.append(f"{op} tries {item} at {target} again after {now_s - failed_s:.2f} s")
            case Drop(op):
                self._issue(op, command)
                self._judge_drop(command, state, now_s)
            case Refuse(want, item, code) if code == "TRC012":
                left_s = self._deadlines.get(want, now_s) - now_s
                if left_s > 0:
                    self.faults.append(f"want {want} for {item} is refused as late {left_s:.2f} s too early")

    def _issue(self, op: str, command: Command) -> None:
        if op in self._ops:
            self.faults.append(f"8: op {op} is given twice: {self._ops[op]}, then {command}")
        self._ops[op] = command

    def _judge_drop(self, drop: Drop, state: State, now_s: float) -> None:
        item, place = drop.item, drop.place
        spec, replica = state.items[item], state.replicas[item, place]
        if replica.leases and not drop.drains and place not in state.leaves.get(item, ()):
            self.faults.append(f"6: {drop.op} frees {item} at {place}, which has {replica.leases} leases")
        if place == NETWORK:
            self.faults.append(f"{drop.op} drops {item} at its address")
        if item in state.retired:
            return
        if place == spec.durable or not state.ready(item, spec.durable):
            self.faults.append(f"1: {drop.op} drops {item} at {place}, durable at {spec.durable}")
        if state.pinned(item) and place == state.home(item):
            self.faults.append(f"{drop.op} drops {item} at {place}, where it is pinned")
        if state.serves(item, place):
            if spec.kind == "adapter" and state.wanted(item):
                self.faults.append(f"{drop.op} drops {item} at {place}, where it is wanted")
            if now_s < state.holds.get(item, now_s):
                self.faults.append(f"{drop.op} drops {item} at {place}, granted a moment ago")
        ordered = state.moves.get(item)
        if ordered is not None and place == ordered.landing and place.tier is Tier.SSD:
            self.faults.append(f"{drop.op} drops {item} at {place}, by which it moves to {ordered.to}")

    def _check_deadlines(self, state: State, now_s: float) -> None:
        late = [f"op {op}" for op, running in state.ops.items() if running.deadline_s <= now_s]
        late += [f"want {want}" for want, waiting in state.wants.items() if waiting.deadline_s <= now_s]
        late += [
            f"the move of {item}" for item, ordered in state.moves.items() if ordered.deadline_s <= now_s
        ]
        late += [f"the warming of {item}" for item, order in state.warms.items() if order.deadline_s <= now_s]
        late += [
            f"the unloading of {item}"
            for item, order in state.unloads.items()
            if not order.done and order.deadline_s <= now_s
        ]
        self.faults += [f"9: {each} goes on past its deadline" for each in late]

    def _lift(self, item: Item) -> None:
        for key in [key for key in self._failed if key[0] == item]:
            del self._failed[key]
