"""What an event costs: no more than what it is about, and nothing is forgotten for it."""

import math
from dataclasses import replace

import pytest

from placement.due import ALWAYS, NEVER, due_items
from placement.errors import UserError
from placement.invariants import InvariantBroken, check
from placement.messages import Beat, Copied, MoveOrdered, NodeLost, Seen, Tick, Wanted, WantEnded
from placement.policies import DEFAULT
from placement.state import Limits
from tests.placement.brain_lab import RAM, SSD, VRAM, Lab, role

A, B = role("a", home=RAM, idle_s=60.0), role("b")


def settled():
    """Return a lab in which everything is where it rests."""
    lab = Lab().join()
    lab.do(lab.register(A, B))
    return lab


def test_what_rests_is_never_due():
    """A Tick has nobody to look at in a lab at rest."""
    lab = settled()
    assert {lab.state.due[spec.item] for spec in (A, B)} == {NEVER}
    assert due_items(lab.state, 1e9) == []


def test_a_copy_elsewhere_is_due_when_it_was_idle_for_long_enough():
    """Not before, and then at each Tick until it is gone."""
    lab = settled()
    lab.do(lab.want(A))
    assert lab.state.due[A.item] == 60.0
    assert due_items(lab.state, 59.9) == []
    assert due_items(lab.state, 60.0) == [A.item]


def test_what_is_missing_where_it_rests_is_looked_at_whenever_there_is_room():
    """While there is none it is left out, so that a full place costs nothing."""
    lab = Lab().join()
    first, second = (role(name, home=RAM, nbytes=60 * 2**20) for name in "xy")
    lab.do(lab.register(first, second))
    assert lab.state.due[second.item] == ALWAYS
    assert due_items(lab.state, 1.0) == []
    lab.do(lab.tell(MoveOrdered(first.item, SSD, "user")))
    lab.do(lab.tell(Tick()))
    lab.now_s += 1
    lab.do(lab.tell(Tick()))
    assert lab.phase(second, RAM) == "ready"


def test_a_want_is_due_at_its_deadline():
    """Nothing else has to happen for it to end."""
    lab = Lab(limits=Limits(beat_timeout_s=1e9)).join()
    lab.register(B)
    lab.want(B, within_s=7.0)
    assert lab.state.due[B.item] == 7.0


def test_a_beat_that_changes_nothing_keeps_all_that_is_known_of_items():
    """The very same mappings are in the state before and after."""
    lab = settled()
    held = {RAM: {A.item: Seen()}, SSD: {A.item: Seen(), B.item: Seen()}}
    lab.tell(Beat("desk", 1.0, held))
    before = lab.state
    lab.now_s = 2.0
    lab.tell(Beat("desk", 2.0, held))
    for name in ("replicas", "spots", "shelves", "tallies", "uses", "due", "ops", "strangers"):
        assert getattr(lab.state, name) is getattr(before, name), name


def test_a_state_that_was_read_stays_as_it_was():
    """The next events write to a draft of their own."""
    lab = settled()
    before = lab.state
    told = (dict(before.replicas), dict(before.uses), dict(before.spots), dict(before.due))
    lab.now_s = 5.0
    lab.do(lab.want(A))
    lab.tell(NodeLost("desk", "gone"))
    assert lab.state is not before
    assert (before.replicas, before.uses, before.spots, before.due) == told


def test_an_event_that_is_refused_in_the_middle_changes_nothing():
    """An answer of the wrong kind is noticed after its op was ended in the draft."""
    lab = Lab().join()
    lab.do(lab.register(A))
    lab.do(lab.want(A))
    lab.now_s = 61.0
    (drop,) = lab.tell(Tick())
    before = lab.state
    with pytest.raises(UserError, match="does not answer"):
        lab.machine.handle(Copied(drop.op, 1, 0.1), lab.now_s)
    assert lab.state is before
    assert drop.op in lab.state.ops


def test_a_policy_that_fails_changes_nothing():
    """The event is not half taken in."""

    def broken(_state, _items, _now_s, _limits):
        yield from ()
        raise ZeroDivisionError

    lab = settled()
    before = lab.state
    lab.machine._policies = (*DEFAULT, broken)  # noqa: SLF001 -- the lab was brought up with sound ones
    with pytest.raises(ZeroDivisionError):
        lab.machine.handle(Wanted("w", A.item, 9.0), 1.0)
    assert lab.state is before


def test_who_waits_keeps_its_place_in_line_until_nobody_wants_it():
    """A caller who gives up does not send the others to the end."""
    lab = Lab(policies=()).join()
    lab.register(A, B)
    lab.want(A)
    lab.want(B)
    lab.want(A)
    lab.tell(WantEnded("w1"))
    assert list(lab.state.lines[VRAM]) == [A.item, B.item]
    lab.tell(WantEnded("w3"))
    assert list(lab.state.lines[VRAM]) == [B.item]


BROKEN = {
    "a tally": lambda s: {"tallies": {**s.tallies, RAM: replace(s.tallies[RAM], nbytes=1)}},
    "the queue": lambda _: {"queue": {}},
    "a line": lambda _: {"lines": {}},
    "the followers": lambda _: {"followers": {"a": (B.item,)}},
    "who is due": lambda s: {"due": {**s.due, A.item: math.inf}},
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_index_that_is_out_of_step_is_told(name):
    """The check counts anew what the draft kept in step."""
    lab = settled()
    lab.do(lab.want(A))
    lab.now_s = 1.0
    lab.want(B)
    check(lab.state, lab.limits)
    with pytest.raises(InvariantBroken):
        check(replace(lab.state, **BROKEN[name](lab.state)), lab.limits)
