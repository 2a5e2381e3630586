import random

import pytest

from placement.invariants import check
from placement.machine import Machine
from placement.messages import Beat, Tick, Wanted, WarmOrdered
from placement.replay.brain import Brain
from placement.replay.replay import play
from placement.replay.stage import plain
from placement.replay.trace import BUS, DISK, Ask, Cargo, Header, Trace
from placement.replay.workloads import generate
from placement.state import Item, Limits
from placement.tiers import Tier


class Watched(Machine):
    """The lab's Machine, whose state is checked after each event, and which keeps what it was told."""

    def __init__(self, limits=None):
        super().__init__(limits or Limits(), 1)
        self.told = []

    def handle(self, event, now_s):
        commands = super().handle(event, now_s)
        check(self.state, self.limits)
        self.told.append((now_s, event))
        return commands

    def heard(self, kind):
        """Return what it was told of a kind, with the times."""
        return [(now_s, event) for now_s, event in self.told if isinstance(event, kind)]


def trace(*asks):
    """Return asks of roles of 100 MB, in seconds from 0."""
    items = {Item(f"{role}@1"): Cargo(10**8, role) for role in ("a", "b", "c")}
    header = Header("test", None, items, 8, 0, {DISK: 1e9, BUS: 1e10}, {DISK: 0.0, BUS: 0.0})
    return Trace(header, tuple(Ask(*ask) for ask in asks))


def played(made, slots, limits=None, *, hints=True):
    """Return the Machine and the score of a trace."""
    machine = Watched(limits)
    return machine, Brain(made, plain(made.header, slots), machine, hints=hints).play("tierce")


@pytest.mark.parametrize("workload", ["zipf-1.0", "round-table", "flash"])
def test_the_machine_keeps_its_rules_at_every_event_of_a_replay(workload):
    """The same checks as in the lab's own simulation."""
    machine, score = played(generate(workload, random.Random(2), 80), 8)
    assert score.asks == 80
    assert score.refused == 0
    assert not machine.state.wants


def test_a_warm_ask_is_no_word_to_the_machine_and_its_lease_rides_on_the_beat():
    """As in the lab: one want for the cold ask, none for the warm one, and a beat that shows the lease."""
    machine, _ = played(trace((0.0, "a", 0.1), (0.5, "a", 2.0), (4.0, "b", 0.1)), 8)
    assert [event.item for _, event in machine.heard(Wanted)] == ["a@1", "b@1"]
    seen = [
        beat.places[place]["a@1"]
        for _, beat in machine.heard(Beat)
        for place in beat.places
        if place.device and "a@1" in beat.places[place]
    ]
    assert [(one.leases, one.hits) for one in seen[:4]] == [(1, 2), (1, 2), (0, 2), (0, 2)]


def test_the_machine_looks_again_when_a_want_has_lost_its_patience():
    """As the lab's coordinator has it: half a second after the ask, not at the next beat."""
    machine, _ = played(trace((0.25, "a", 5.0), (3.3, "b", 0.1)), 1)
    looked = [now_s for now_s, _ in machine.heard(Tick)]
    assert any(now_s == pytest.approx(3.3 + machine.limits.drain_after_s) for now_s in looked)


def test_an_announced_speaker_is_warm_when_it_is_asked():
    """Without hints the same ask is cold."""
    asks = trace((0.0, "a", 0.5, "b"), (2.0, "b", 0.5, None))
    machine, with_hints = played(asks, 2)
    assert [event.item for _, event in machine.heard(WarmOrdered)] == ["b@1"]
    assert with_hints.found[Tier.VRAM] == 1
    machine, without = played(asks, 2, hints=False)
    assert machine.heard(WarmOrdered) == []
    assert without.found[Tier.VRAM] == 0


def test_an_ask_that_finds_no_seat_before_its_deadline_is_refused_and_counted():
    """Both seats' leases outlast it; its wait counts in full."""
    asks = trace((0.0, "a", 100.0), (0.1, "b", 100.0), (3.0, "c", 1.0))
    limits = Limits(drain_after_s=90.0)
    _, score = played(asks, 2, limits)
    assert score.refused == 1
    assert score.total_s == pytest.approx(0.11 + 0.11 + 30.0, abs=1.1)


def test_equal_traces_give_equal_scores():
    """Nothing in a replay reads a clock or throws dice."""
    made = generate("mmpp", random.Random(4), 60)
    stage = plain(made.header, 8)
    assert play(made, "tierce", stage) == play(made, "tierce", stage)
    assert play(made, "lru", stage) == play(made, "lru", stage)


def test_a_seat_that_becomes_free_is_told_at_once_to_whom_waits_for_one():
    """As in the lab: between two beats a lease ends, and the want behind it gets the seat."""
    machine, score = played(trace((0.25, "a", 0.4), (0.35, "b", 0.1)), 1)
    ended_s = 0.25 + 0.11 + 0.4
    beats = [(now_s, beat) for now_s, beat in machine.heard(Beat) if len(beat.places) == 1]
    assert [now_s for now_s, _ in beats] == pytest.approx([ended_s], abs=1e-6)
    assert score.total_s == pytest.approx(0.11 + (ended_s - 0.35) + 0.11, abs=1e-6)
