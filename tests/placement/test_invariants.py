from dataclasses import replace

import pytest

from placement.change import put
from placement.heat import Heat
from placement.invariants import InvariantBroken, check
from placement.messages import Copy, Drop
from placement.patience import Patience
from placement.state import NETWORK, Item, Limits, Move, Op, Replica, Want
from placement.warmth import Unload, Warm
from tests.placement.brain_lab import ATTIC_RAM, LOG, MIB, RAM, SSD, VRAM, Lab, plan, role, shard

A, S = role("a", home=RAM), shard("s", home=SSD)
READY = Replica("ready", 0.0, 0.0)


def sound():
    """Return a sound state: an adapter in RAM, a shard on SSD, one copy in flight."""
    lab = Lab(policies=()).join()
    lab.register(A, at=(RAM,))
    lab.register(S, at=(SSD,))
    copy = Copy("", A.item, RAM, VRAM, A.nbytes, "test")
    return plan(lab.state, [copy], 0.0, lab.limits).state


def with_replica(state, item, place, replica):
    """Return the state with one replica set, indexes in step."""
    draft = state.draft()
    put(draft, {(item, place): replica})
    return draft


def drop_op(item, place):
    """Return the ops with one Drop in flight."""
    return {"9.9": Op(Drop("9.9", item, place, "test"), 0.0, 1.0)}


LEAVING = Replica("leaving", 0.0, 0.0, op="9.9")
NOBODY = Item("nobody@1")

BROKEN = {
    "the durable copy is gone": lambda s: with_replica(s, A.item, SSD, None),
    "the durable copy is leaving": lambda s: replace(
        with_replica(s, A.item, SSD, LEAVING), ops={**s.ops, **drop_op(A.item, SSD)}
    ),
    "too many bytes": lambda s: replace(s, rooms={**s.rooms, RAM: replace(s.rooms[RAM], budget=1)}),
    "too many seats": lambda s: replace(
        s, rooms={**s.rooms, VRAM: replace(s.rooms[VRAM], seats={"small": 0})}
    ),
    "an op without a replica": lambda s: with_replica(s, A.item, VRAM, None),
    "an op whose replica is ready": lambda s: with_replica(s, A.item, VRAM, READY),
    "an op whose replica is another's": lambda s: with_replica(
        s, A.item, VRAM, Replica("loading", 0.0, 0.0, op="8.8")
    ),
    "the source of a copy is leaving": lambda s: replace(
        with_replica(s, A.item, RAM, LEAVING), ops={**s.ops, **drop_op(A.item, RAM)}
    ),
    "a ready replica with an op": lambda s: with_replica(s, A.item, RAM, replace(READY, op="1.9")),
    "a loading replica without an op": lambda s: with_replica(
        s, A.item, RAM, replace(READY, phase="loading")
    ),
    "negative leases": lambda s: with_replica(s, A.item, RAM, replace(READY, leases=-1)),
    "all indexes of a shard leave": lambda s: replace(
        with_replica(with_replica(s, S.item, RAM, LEAVING), S.item, SSD, LEAVING),
        ops={**s.ops, **drop_op(S.item, RAM)},
    ),
    "a replica is in no spot": lambda s: replace(s, spots={**s.spots, A.item: (SSD, VRAM)}),
    "a replica is on no shelf": lambda s: replace(s, shelves={**s.shelves, RAM: {}}),
    "a spot without a replica": lambda s: replace(
        s, spots={**s.spots, A.item: (*s.spots[A.item], ATTIC_RAM)}
    ),
    "bytes are counted wrong": lambda s: replace(s, shelves={**s.shelves, RAM: {A.item: 3}}),
    "a want for nobody": lambda s: replace(s, wants={"w": Want("w", NOBODY, 1.0, 0.0)}),
    "a pin of nobody": lambda s: replace(s, pins=frozenset({NOBODY})),
    "an item without a last use": lambda s: replace(s, uses={}),
    "what comes from an address passes the SSD by": lambda s: replace(
        s,
        ops={op: replace(each, command=replace(each.command, source=NETWORK)) for op, each in s.ops.items()},
    ),
    "an address is leaving": lambda s: replace(
        with_replica(s, A.item, NETWORK, LEAVING), ops={**s.ops, **drop_op(A.item, NETWORK)}
    ),
    "a warm order for nobody": lambda s: replace(s, warms={NOBODY: Warm("test", 0.0, 9.0)}),
    "an unload of nobody": lambda s: replace(s, unloads={NOBODY: Unload("test", 9.0)}),
    "an expectation of nobody": lambda s: replace(s, expected={NOBODY: 9.0}),
    "patience with nobody": lambda s: replace(s, patience={NOBODY: Patience(2.0, 9.0)}),
    "asks of nobody": lambda s: replace(s, heat={NOBODY: Heat()}),
    "a move that is done": lambda s: replace(s, moves={A.item: Move(RAM, None, "user", 9.0)}),
}


def test_a_sound_state_passes():
    """The state that the others break is sound itself."""
    check(sound(), Limits())


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_rule_is_told(name):
    """A state that contradicts a rule raises, with the numbers in the message."""
    with pytest.raises(InvariantBroken, match=r"broken rule: .+: .+ \[TRC090\]"):
        check(BROKEN[name](sound()), Limits())


#: an item that the index of its places hides: only who looks at the places of all finds it
HIDDEN = "a replica is in no spot"


@pytest.mark.parametrize("name", sorted(BROKEN.keys() - {HIDDEN}))
def test_each_broken_rule_is_told_of_the_items_that_an_event_changed(name):
    """Who looks at these items only, finds what is wrong with them, and so whoever should not be there."""
    with pytest.raises(InvariantBroken, match=r"broken rule: .+: .+ \[TRC090\]"):
        check(BROKEN[name](sound()), Limits(), [A.item, S.item, NOBODY])


def test_only_the_items_that_are_named_are_looked_at():
    """A rule that is broken where nothing happened is left to the whole check, which finds it."""
    state = with_replica(sound(), A.item, RAM, replace(READY, leases=-1))
    check(state, Limits(), [S.item])
    with pytest.raises(InvariantBroken, match="has -1"):
        check(state, Limits())
    with pytest.raises(InvariantBroken, match="has -1"):
        check(state, Limits(), [S.item, A.item])


def test_a_place_is_looked_at_with_any_of_its_items():
    """Bytes that another item takes beyond the budget are found by looking at who is there too."""
    lab = Lab(policies=()).join()
    lab.register(A, role("b"), at=(RAM,))
    state = replace(lab.state, rooms={**lab.state.rooms, RAM: replace(lab.state.rooms[RAM], budget=1)})
    with pytest.raises(InvariantBroken, match="no budget is exceeded"):
        check(state, Limits(), [A.item])


def test_a_budget_that_is_broken_is_told_with_its_three_numbers():
    """Held bytes, capacity and seats stand in the message."""
    state = sound()
    state = replace(state, rooms={**state.rooms, RAM: replace(state.rooms[RAM], budget=4 * MIB)})
    with pytest.raises(InvariantBroken, match=f"desk:RAM holds {10 * MIB} of {4 * MIB} bytes"):
        check(state, Limits())


def test_too_many_copies_in_flight_are_told():
    """The bound of the limits is checked as well."""
    with pytest.raises(InvariantBroken, match=r"1 into .*, and 0 may be"):
        check(sound(), Limits(copies_per_place=0))


def test_a_copy_into_a_foreign_engine_is_told():
    """VRAM is where the item's own engine is."""
    state = sound()
    state = replace(
        state, items={**state.items, A.item: replace(A, serves_at=(VRAM._replace(device="cuda:9"),))}
    )
    with pytest.raises(InvariantBroken, match="in its engines only"):
        check(state, Limits())


def test_the_log_of_a_shard_takes_no_budget():
    """Its bytes belong to the fixed part of the SSD's room."""
    assert sound().used(LOG) == 0
