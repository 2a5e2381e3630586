from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from placement.errors import TierceError
from placement.invariants import InvariantBroken, check
from placement.machine import Machine
from placement.messages import (
    Beat,
    Copied,
    Copy,
    CopyFailed,
    Drop,
    Dropped,
    DropRefused,
    Grant,
    MoveOrdered,
    NodeJoined,
    NodeLost,
    PinSet,
    Refuse,
    Registered,
    Removed,
    Seen,
    Tick,
    UnloadOrdered,
    Wanted,
    WantEnded,
    WarmOrdered,
)
from placement.state import NETWORK, Gauge
from placement.tiers import Tier
from tests.placement.brain_lab import BRISK, whole_scene

LAB = whole_scene()
PLACES = [*sorted(place for rooms in LAB.rooms.values() for place in rooms), NETWORK]
NODES = sorted(LAB.rooms)
#: what a person or the file may ask for in vain
REFUSABLE = MoveOrdered | PinSet | WarmOrdered | UnloadOrdered | Wanted | Removed | Registered


class BrainAgainstTruth(RuleBasedStateMachine):
    """The brain against a dict of what is really where; commands are carried out in any order, or never."""

    def __init__(self):
        super().__init__()
        self.machine = Machine(BRISK, 1)
        self.now_s = 0.0
        #: the truth: (item, place) -> leases
        self.truth = {}
        #: commands given and not carried out yet, and answers on their way
        self.todo, self.answers = [], []
        #: where each item is durable, as the brain last said and the truth agreed
        self.durables = {}
        #: what arrived after its op had ended, when nobody kept room for it any more
        self.late = set()
        self.open_wants, self.dead, self.removed = {}, set(), set()
        #: what others take of the measured memory
        self.others = {}
        self.asked = 0

    @initialize()
    def begin(self):
        for node in NODES:
            self.tell(NodeJoined(node, LAB.rooms[node]))
        for spec in LAB.specs:
            self.truth[spec.item, spec.durable] = 0
            self.durables[spec.item] = spec.durable
            self.tell(Registered(spec, (spec.durable,)))
        for node in NODES:
            self.beat(node)

    @property
    def specs(self):
        return {spec.item: spec for spec in LAB.specs}

    def tell(self, event):
        try:
            commands = self.machine.handle(event, self.now_s)
        except InvariantBroken:
            raise
        except TierceError:
            assert isinstance(event, REFUSABLE), event
            return False
        state = self.machine.state
        for item, spec in state.items.items():
            if spec.durable != self.durables.setdefault(item, spec.durable):
                assert (item, spec.durable) in self.truth, f"{item} is not at {spec.durable}"
                self.durables[item] = spec.durable
        for command in commands:
            if isinstance(command, Grant | Refuse):
                assert self.open_wants.pop(command.want) == command.item
            else:
                self.todo.append(command)
        return True

    def pick(self, index, things):
        return things.pop(index % len(things))

    @rule(item=st.sampled_from(LAB.specs), patience_s=st.floats(0, 10))
    def want(self, item, patience_s):
        self.asked += 1
        want = f"w{self.asked}"
        self.open_wants[want] = item.item
        if not self.tell(Wanted(want, item.item, self.now_s + patience_s)):
            del self.open_wants[want]

    @precondition(lambda self: self.open_wants)
    @rule()
    def give_up(self):
        want = next(iter(self.open_wants))
        del self.open_wants[want]
        self.tell(WantEnded(want))

    @rule(item=st.sampled_from(LAB.specs), to=st.sampled_from(PLACES))
    def move(self, item, to):
        self.tell(MoveOrdered(item.item, to, "user"))

    @rule(item=st.sampled_from(LAB.specs), pinned=st.booleans())
    def pin(self, item, pinned):
        self.tell(PinSet(item.item, pinned, "user"))

    @rule(item=st.sampled_from(LAB.specs), within_s=st.floats(0, 10))
    def warm(self, item, within_s):
        self.tell(WarmOrdered(item.item, "user", within_s))

    @rule(item=st.sampled_from(LAB.specs))
    def unload(self, item):
        self.tell(UnloadOrdered(item.item, "user"))

    @rule(place=st.sampled_from(sorted(LAB.memory)), share=st.floats(0, 1))
    def others_come_and_go(self, place, share):
        self.others[place] = int(share * LAB.memory[place])

    @rule(item=st.sampled_from(LAB.specs))
    def remove(self, item):
        if self.tell(Removed(item.item)):
            self.removed.add(item.item)

    @rule(item=st.sampled_from(LAB.specs))
    def register(self, item):
        known = self.machine.state.items.get(item.item)
        durable = known.durable if known else item.durable
        if self.tell(Registered(replace(item, durable=durable), (durable,))):
            self.removed.discard(item.item)
            if known is None:
                self.durables[item.item] = durable
                self.truth[item.item, durable] = 0

    @rule(seconds=st.floats(0.1, 6))
    def wait(self, seconds):
        self.now_s += seconds
        self.tell(Tick())

    @precondition(lambda self: self.todo)
    @rule(
        index=st.integers(0, 99), luck=st.sampled_from(["well", "well", "well", "fails", "for good", "lost"])
    )
    def carry_out(self, index, luck):
        command = self.pick(index, self.todo)
        place = command.target if isinstance(command, Copy) else command.place
        if place.node in self.dead or luck == "lost":
            return
        answer = self.copy(command, luck) if isinstance(command, Copy) else self.drop(command)
        self.answers.append(answer)

    def copy(self, copy, luck):
        spec = self.specs[copy.item]
        assert copy.source != NETWORK or copy.target.tier is Tier.SSD, copy
        if (copy.item, copy.source) not in self.truth or copy.source.node in self.dead:
            return CopyFailed(copy.op, "STO001", "the source lacks it")
        if luck != "well":
            return CopyFailed(copy.op, "STO009", "bad luck", permanent=luck == "for good")
        room = LAB.rooms[copy.target.node][copy.target]
        others = [
            self.specs[item] for item, place in self.truth if place == copy.target and item != copy.item
        ]
        nbytes = spec.nbytes + sum(other.nbytes for other in others)
        in_time = copy.op in self.machine.state.ops
        seats = 1 + sum(other.base == spec.base for other in others)
        full = nbytes > room.capacity or (room.seats and spec.base and seats > room.seats[spec.base])
        if full:
            crowded = any(place == copy.target for _, place in self.late & self.truth.keys())
            assert not in_time or crowded, f"{copy} overfills {copy.target}"
            return CopyFailed(copy.op, "STO003", "full")
        if not in_time:
            self.late.add((copy.item, copy.target))
        self.truth.setdefault((copy.item, copy.target), 0)
        return Copied(copy.op, copy.nbytes, 0.1)

    def drop(self, drop):
        key = (drop.item, drop.place)
        assert drop.item in self.removed or drop.place != self.durables[drop.item], drop
        if self.truth.get(key):
            return DropRefused(drop.op, self.truth[key])
        self.truth.pop(key, None)
        return Dropped(drop.op)

    @precondition(lambda self: self.answers)
    @rule(index=st.integers(0, 99), twice=st.booleans())
    def answer(self, index, twice):
        answer = self.pick(index, self.answers)
        self.tell(answer)
        if twice:
            self.tell(answer)

    @rule(node=st.sampled_from(NODES))
    def beat(self, node):
        if node in self.dead:
            return
        self.now_s += 0.01
        rooms = [*LAB.rooms[node], *(p for _, p in self.truth if p.node == node and p.device == "log")]
        places = {
            place: {
                i: Seen(leases, hits=1, nbytes=0 if p.device == "log" else self.specs[i].nbytes)
                for (i, p), leases in self.truth.items()
                if p == place
            }
            for place in rooms
        }
        self.todo = [command for command in self.todo if not self.is_stale(command, node)]
        gauges = {
            place: (Gauge(LAB.memory[place], self.others.get(place, 0), "pretended"),)
            for place in rooms
            if place in LAB.memory
        }
        self.tell(Beat(node, self.now_s - 0.005, places, gauges))

    def is_stale(self, command, node):
        """Tell whether a drop of a file can no longer arrive: calls to a store keep their order."""
        return isinstance(command, Drop) and command.place.node == node and command.place.tier is Tier.SSD

    @precondition(lambda self: any(place.tier is Tier.VRAM for _, place in self.truth))
    @rule(index=st.integers(0, 99), change=st.sampled_from([1, -1]))
    def lease(self, index, change):
        held = sorted(key for key in self.truth if key[1].tier is Tier.VRAM)
        key = held[index % len(held)]
        self.truth[key] = max(0, self.truth[key] + change)

    @rule(node=st.sampled_from(NODES), told=st.booleans())
    def die(self, node, told):
        self.dead.add(node)
        self.truth = {
            key: 0 if key[1].node == node else leases
            for key, leases in self.truth.items()
            if key[1].node != node or key[1].tier is Tier.SSD
        }
        self.todo = [c for c in self.todo if (c.target if isinstance(c, Copy) else c.place).node != node]
        if told:
            self.tell(NodeLost(node, "died"))

    @rule(node=st.sampled_from(NODES))
    def come_back(self, node):
        if node in self.dead:
            self.dead.discard(node)
            self.now_s += 0.01
            self.tell(NodeJoined(node, LAB.rooms[node]))

    @invariant()
    def the_rules_hold(self):
        check(self.machine.state, BRISK)

    @invariant()
    def the_brain_knows_the_open_wants(self):
        assert {want: w.item for want, w in self.machine.state.wants.items()} == self.open_wants

    @invariant()
    def no_durable_file_is_lost(self):
        kept = {item for item, durable in self.durables.items() if (item, durable) in self.truth}
        assert {spec.item for spec in LAB.specs} - self.removed <= kept

    def carry_all_out(self):
        """Do what was commanded, and what follows from it, until nothing is left to do."""
        while self.todo or self.answers:
            for command in self.todo:
                done = self.copy(command, "well") if isinstance(command, Copy) else self.drop(command)
                self.answers.append(done)
            self.todo = []
            answers, self.answers = self.answers, []
            for answer in answers:
                self.tell(answer)

    def teardown(self):
        """When all is calm, every want ends and nothing is in flight."""
        for node in NODES:
            self.come_back(node)
        self.truth = dict.fromkeys(self.truth, 0)
        self.others = {}
        for _ in range(16):
            self.now_s += 1.0
            self.tell(Tick())
            self.carry_all_out()
            for node in NODES:
                self.beat(node)
                self.carry_all_out()
        state = self.machine.state
        assert not self.open_wants
        assert not state.ops
        assert not state.moves
        assert not state.warms
        assert all(order.done for order in state.unloads.values())
        believed = {key for key, replica in state.replicas.items() if replica.phase == "ready"}
        assert {key for key in self.truth if key[0] not in self.removed} == believed


TestBrainAgainstTruth = BrainAgainstTruth.TestCase
TestBrainAgainstTruth.settings = settings(
    max_examples=30,
    stateful_step_count=35,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
