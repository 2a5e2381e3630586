from dataclasses import replace

import pytest

from placement.errors import UserError, WorldError
from placement.messages import (
    Beat,
    Copied,
    Copy,
    CopyFailed,
    Drop,
    Dropped,
    DropRefused,
    MoveOrdered,
    NodeJoined,
    NodeLost,
    PinSet,
    Registered,
    Removed,
    Seen,
    Tick,
    Wanted,
    WantEnded,
)
from placement.state import Item, Place, Room
from placement.tiers import Tier
from tests.placement.brain_lab import (
    ATTIC_RAM,
    ATTIC_SSD,
    DESK,
    LOG,
    MIB,
    RAM,
    SSD,
    VRAM,
    Lab,
    plan,
    role,
    shard,
)

A, B = role("a"), role("b")
NOBODY = Item("nobody@0")


def passive(*specs):
    """Return a joined lab without policies that knows these items."""
    lab = Lab(policies=()).join()
    lab.register(*specs)
    lab.now_s = 1.0
    return lab


def start(lab, command):
    """Give a command as a policy would; return it with its op."""
    planned = plan(lab.state, [command], lab.now_s, lab.limits)
    lab.machine.state = planned.state
    return planned.commands[0]


def copying(lab, spec=A, target=RAM):
    """Begin a copy from the durable file."""
    return start(lab, Copy("", spec.item, SSD, target, spec.nbytes, "test"))


def dropping(lab, spec=A, place=RAM):
    """Begin a drop."""
    return start(lab, Drop("", spec.item, place, "test"))


IMPOSSIBLE = {
    "a want for an unknown item": (Wanted("w", NOBODY, 9.0), "TRC020"),
    "a move of an unknown item": (MoveOrdered(NOBODY, RAM, "user"), "TRC020"),
    "a pin of an unknown item": (PinSet(NOBODY, True, "user"), "TRC020"),
    "a removal of an unknown item": (Removed(NOBODY), "TRC020"),
    "a beat of an unknown node": (Beat("cellar", 1.0, {}), "TRC021"),
    "a beat about another node": (Beat("desk", 1.0, {ATTIC_RAM: {}}), "TRC021"),
    "the loss of an unknown node": (NodeLost("cellar", "gone"), "TRC021"),
    "a node that offers another's place": (NodeJoined("cellar", {RAM: Room(1)}), "TRC021"),
    "a move to an unknown node": (MoveOrdered(A.item, Place("cellar", Tier.RAM), "user"), "TRC021"),
    "a move to the network": (MoveOrdered(A.item, Place("desk", Tier.NETWORK), "user"), "TRC023"),
    "a move to another engine": (MoveOrdered(A.item, Place("desk", Tier.VRAM, "cuda:7"), "user"), "TRC023"),
    "a shard in VRAM": (MoveOrdered(shard("s").item, VRAM, "user"), "TRC023"),
    "a shard away from its log": (MoveOrdered(shard("s").item, ATTIC_RAM, "user"), "TRC023"),
    "no durable copy": (Registered(A, (RAM,)), "TRC024"),
    "a durable copy in RAM": (Registered(replace(A, durable=RAM), (RAM,)), "TRC024"),
    "a home in VRAM without an engine": (Registered(replace(A, serves_at=(), home=VRAM), (SSD,)), "TRC024"),
    "a negative size": (Registered(replace(A, nbytes=-1), (SSD,)), "TRC024"),
    "a shard that serves from its log": (Registered(shard("t", home=LOG), (LOG,)), "TRC024"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_event_that_cannot_be_is_refused_and_changes_nothing(name):
    """Unknown names, places that are none for the item and wrong registrations raise; the state stays."""
    event, code = IMPOSSIBLE[name]
    lab = passive(A, shard("s"))
    before = lab.state
    with pytest.raises(UserError) as caught:
        lab.tell(event)
    assert caught.value.code == code
    assert lab.state is before


def test_a_move_that_can_never_fit_is_refused_with_its_numbers():
    """What lives in RAM stays there, so an item that does not fit beside it is refused at once."""
    lives = role("lives", home=RAM, nbytes=95 * MIB)
    lab = passive(A, lives)
    with pytest.raises(WorldError) as caught:
        lab.tell(MoveOrdered(A.item, RAM, "user"))
    assert str(caught.value) == (
        f"{A.item} does not fit at {RAM}: it needs 10.0 MiB, and "
        "95.0 MiB of 100.0 MiB stay with lives [TRC022]"
    )
    assert not lab.state.moves


def test_only_pinned_items_block_a_move_to_vram():
    """A seat can be taken from whoever is not pinned."""
    others = [role(name, home=VRAM) for name in "xy"]
    lab = passive(A, *others)
    for spec in others:
        lab.tell(PinSet(spec.item, True, "user"))
    with pytest.raises(WorldError, match="2 of 2 seats of base small stay with x, y"):
        lab.tell(MoveOrdered(A.item, VRAM, "user"))
    lab.tell(PinSet(others[0].item, False, "user"))
    lab.tell(MoveOrdered(A.item, VRAM, "user"))
    assert lab.state.home(A.item) == VRAM


def test_a_pin_that_can_never_fit_is_refused():
    """The third pin on two seats is refused, and the item stays unpinned."""
    specs = [role(name, home=VRAM) for name in "xyz"]
    lab = passive(*specs)
    for spec in specs[:2]:
        lab.tell(PinSet(spec.item, True, "user"))
    with pytest.raises(WorldError, match="TRC022"):
        lab.tell(PinSet(specs[2].item, True, "user"))
    assert not lab.state.pinned(specs[2].item)


def test_a_move_to_a_lost_node_is_refused():
    """It is the world's fault, and may be ordered again when the node is back."""
    lab = passive(A)
    lab.tell(NodeLost("attic", "no beat for 10.0 s"))
    with pytest.raises(WorldError, match=r"attic is lost \(no beat for 10\.0 s\)"):
        lab.tell(MoveOrdered(A.item, ATTIC_RAM, "user"))


def test_an_answer_makes_a_copy_ready_and_a_second_one_changes_nothing():
    """Copied ends its op once; the same answer again is ignored."""
    lab = passive(A)
    done = Copied(copying(lab).op, A.nbytes, 0.1)
    lab.tell(done)
    assert lab.phase(A, RAM) == "ready"
    before = lab.state
    lab.tell(done)
    assert lab.state == before


@pytest.mark.parametrize(
    "late", [Copied("9.9", 1, 0.1), CopyFailed("9.9", "X", "no"), Dropped("9.9"), DropRefused("9.9", 1)]
)
def test_an_answer_to_an_unknown_op_is_ignored(late):
    """It may be of an earlier epoch, late or repeated: the next beat tells."""
    lab = passive(A)
    before = lab.state
    assert lab.tell(late) == []
    assert lab.state == before


def test_an_answer_of_the_wrong_kind_is_illegal():
    """A Drop cannot be answered by Copied."""
    lab = passive(A)
    begun = copying(lab)
    before = lab.state
    with pytest.raises(UserError, match="TRC026"):
        lab.tell(Dropped(begun.op))
    assert lab.state is before


def test_the_pause_after_failures_doubles_and_ends_with_success():
    """1, 2, 4 … up to 60 seconds for this item and place; a success forgets the count."""
    lab = passive(A)
    pauses = []
    for _ in range(8):
        lab.tell(CopyFailed(copying(lab).op, "STO009", "bad luck"))
        until_s = lab.state.backoff[A.item, RAM].until_s
        pauses.append(until_s - lab.now_s)
        lab.now_s = until_s
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    lab.tell(Copied(copying(lab).op, A.nbytes, 0.1))
    assert not lab.state.backoff


def test_a_permanent_failure_lasts_until_the_item_is_registered_again():
    """Trying again unchanged cannot help; a new registration can."""
    lab = passive(A)
    lab.tell(CopyFailed(copying(lab).op, "ADP037", "no effect", permanent=True))
    lab.now_s = 1e6
    lab.tell(Tick())
    assert lab.state.blocked(A.item, RAM, lab.now_s).permanent
    lab.tell(Registered(A, (SSD,)))
    assert not lab.state.backoff


def test_an_op_without_answer_ends_and_keeps_its_room_until_a_beat():
    """Its bytes may have arrived; only a beat that was asked for later tells, and then the room is free."""
    lab = passive(A)
    copying(lab)
    lab.now_s = 100.0
    lab.tell(Tick())
    assert not lab.state.ops
    assert (lab.phase(A, RAM), lab.state.used(RAM)) == ("loading", A.nbytes)
    lab.see(RAM, asked_s=99.0)
    assert lab.phase(A, RAM) == "loading"
    lab.now_s = 101.0
    lab.see(RAM)
    assert (lab.phase(A, RAM), lab.state.used(RAM)) == (None, 0)


def test_a_larger_item_has_a_later_deadline():
    """An op may take the time that its bytes need at the slowest accepted speed."""
    big = role("big", nbytes=100 * MIB)
    lab = passive(A, big)
    ops = [copying(lab, A, VRAM).op, copying(lab, big, RAM).op]
    deadlines = [lab.state.ops[op].deadline_s for op in ops]
    assert deadlines == [1 + 30 + 0.5, 1 + 30 + 5.0]


def test_a_beat_shows_a_copy_before_its_answer_does():
    """What is there is ready; the late answer is ignored."""
    lab = passive(A)
    begun = copying(lab)
    lab.now_s = 2.0
    lab.see(RAM, A)
    assert lab.phase(A, RAM) == "ready"
    assert not lab.state.ops
    before = lab.state
    lab.tell(Copied(begun.op, A.nbytes, 0.1))
    assert lab.state == before


def test_a_beat_shows_a_drop_before_its_answer_does():
    """What is gone after a Drop began is dropped; while it is still there the Drop goes on."""
    lab = passive(A)
    lab.see(RAM, A)
    begun = dropping(lab)
    lab.now_s = 2.0
    lab.see(RAM, A)
    assert lab.phase(A, RAM) == "leaving"
    lab.now_s = 3.0
    lab.see(RAM)
    assert lab.phase(A, RAM) is None
    lab.tell(Dropped(begun.op))
    assert not lab.state.ops


def test_a_beat_asked_before_an_op_began_does_not_judge_it():
    """An old answer that lacks a fresh replica, or has a dropped one, is about a past that we know better."""
    lab = passive(A, B)
    begun = copying(lab)
    lab.now_s = 5.0
    lab.tell(Copied(begun.op, A.nbytes, 0.1))
    lab.see(RAM, asked_s=4.0)
    assert lab.phase(A, RAM) == "ready"
    begun = dropping(lab)
    lab.now_s = 6.0
    lab.tell(Dropped(begun.op))
    lab.see(RAM, A, asked_s=5.5)
    assert lab.phase(A, RAM) is None


def test_an_older_beat_does_not_undo_a_newer_one():
    """Beats that overtake each other are told apart by when they were asked for."""
    lab = passive(A)
    lab.see(RAM, A)
    lab.now_s = 9.0
    lab.see(RAM, A, asked_s=8.0)
    lab.see(RAM, asked_s=7.0)
    assert lab.phase(A, RAM) == "ready"


def test_a_later_asked_beat_may_have_been_answered_earlier():
    """What a beat found counts as known from now, so a beat asked before now cannot take it away."""
    lab = passive(A)
    lab.now_s = 9.0
    lab.see(RAM, A, asked_s=7.0)
    lab.see(RAM, asked_s=8.0)
    assert lab.phase(A, RAM) == "ready"
    copying(lab, target=VRAM)
    lab.now_s = 19.0
    lab.see(VRAM, A, asked_s=17.0)
    lab.see(VRAM, asked_s=18.0)
    assert lab.phase(A, VRAM) == "ready"


def test_a_beat_leaves_places_that_it_does_not_list_alone():
    """An actor that did not answer says nothing about its place."""
    lab = passive(A)
    lab.see(RAM, A)
    lab.now_s = 2.0
    lab.tell(Beat("desk", 2.0, {VRAM: {}}))
    assert lab.phase(A, RAM) == "ready"


def test_a_missing_durable_file_is_observed_and_remembered():
    """The item is `gone` until its file is back; nobody pretends that it is there."""
    lab = passive(A)
    lab.see(SSD)
    assert lab.state.gone == {A.item: 1.0}
    lab.now_s = 2.0
    lab.see(SSD, A)
    assert not lab.state.gone
    assert lab.phase(A, SSD) == "ready"


def test_use_is_read_from_leases_and_hits_where_the_item_serves():
    """Arriving in VRAM or lying in RAM is no use; a hit is, and counts back by its idle time."""
    lab = passive(A)
    lab.now_s = 50.0
    lab.see(VRAM, A, seen=Seen(idle_s=0.0))
    lab.see(RAM, A, seen=Seen(idle_s=0.0, hits=3))
    assert lab.state.uses[A.item] == 0.0
    lab.now_s = 60.0
    lab.see(VRAM, A, seen=Seen(idle_s=4.0, hits=1))
    assert lab.state.uses[A.item] == 56.0
    lab.now_s = 70.0
    lab.see(VRAM, A, seen=Seen(leases=1, hits=1))
    assert lab.state.uses[A.item] == 70.0
    assert lab.state.replicas[A.item, VRAM].leases == 1


def test_a_lost_node_takes_its_caches_with_it_and_keeps_its_files():
    """RAM and VRAM are forgotten; the durable copy is remembered and out of reach."""
    lab = passive(A)
    lab.see(RAM, A)
    lab.tell(NodeLost("desk", "gone"))
    assert (lab.phase(A, RAM), lab.phase(A, SSD)) == (None, "ready")
    assert not lab.state.ready(A.item, SSD)


def test_a_beat_asked_after_the_loss_brings_the_node_back():
    """One asked before proves nothing."""
    lab = passive(A)
    lab.now_s = 5.0
    lab.tell(NodeLost("desk", "cut off"))
    lab.see(RAM, A, asked_s=4.0)
    assert not lab.state.alive("desk")
    lab.now_s = 6.0
    lab.see(RAM, A)
    assert lab.state.alive("desk")
    assert lab.state.ready(A.item, RAM)
    assert VRAM not in lab.state.seen


def test_a_node_that_is_silent_too_long_is_lost():
    """After `beat_timeout_s` without a beat; a Tick that itself comes late proves nothing."""
    lab = passive(A)
    lab.now_s = 60.0
    lab.tell(Tick())
    assert lab.state.alive("desk")
    for lab.now_s in (62.0, 65.0, 68.0):
        lab.see(ATTIC_RAM)
        lab.tell(Tick())
    assert lab.state.alive("desk")
    lab.now_s = 70.0
    lab.tell(Tick())
    assert [lab.state.alive(node) for node in ("desk", "attic")] == [False, True]
    assert lab.state.nodes["desk"].why == "no beat for 10.0 s"


def test_a_place_that_a_node_no_longer_offers_is_forgotten():
    """A new NodeJoined replaces the rooms; what was in a place that is missing is gone, ops included."""
    lab = passive(A)
    copying(lab, target=VRAM)
    lab.tell(NodeJoined("desk", {place: room for place, room in DESK.items() if place != VRAM}))
    assert lab.phase(A, VRAM) is None
    assert not lab.state.ops
    assert set(lab.state.rooms) == {RAM, SSD, ATTIC_RAM, ATTIC_SSD}


def test_facts_may_overfill_a_place_and_are_told_from_decisions():
    """A smaller room with the same replicas is `over` until it fits again."""
    lab = passive(A, B)
    lab.see(RAM, A, B)
    lab.tell(NodeJoined("desk", {**DESK, RAM: Room(15 * MIB)}))
    assert lab.state.over == {RAM}
    lab.tell(Dropped(dropping(lab).op))
    assert not lab.state.over


def test_registering_again_with_a_new_home_beats_an_older_order():
    """The file was changed, so the file counts; unchanged, the order stays."""
    lab = passive(A)
    lab.tell(MoveOrdered(A.item, RAM, "user"))
    lab.tell(Registered(A, (SSD,)))
    assert lab.state.home(A.item) == RAM
    lab.tell(Registered(replace(A, home=VRAM), (SSD,)))
    assert lab.state.home(A.item) == VRAM
    assert not lab.state.moves


def test_registering_again_with_another_size_counts_the_new_size():
    """The index of bytes follows the spec, and nobody has used the item by that."""
    lab = passive(A)
    lab.now_s = 5.0
    lab.tell(Registered(replace(A, nbytes=7), (SSD,)))
    assert lab.state.used(SSD) == 7
    assert lab.state.uses[A.item] == 0.0


def test_registering_again_keeps_an_ordered_unpin():
    """The file says what it said before, so the order counts."""
    spec = replace(A, pinned=True)
    lab = passive(spec)
    lab.tell(PinSet(A.item, False, "user"))
    lab.tell(Registered(spec, (SSD,)))
    assert not lab.state.pinned(A.item)


def test_a_failed_move_is_rolled_back():
    """A permanent failure at the new home, or the deadline, brings the old home back."""
    lab = passive(A)
    lab.tell(MoveOrdered(A.item, RAM, "user"))
    lab.tell(CopyFailed(copying(lab).op, "STO003", "disk full", permanent=True))
    assert lab.state.home(A.item) == SSD
    assert not lab.state.moves
    lab.tell(MoveOrdered(A.item, ATTIC_RAM, "user"))
    lab.now_s += lab.limits.move_s
    lab.tell(Tick())
    assert lab.state.home(A.item) == SSD


def test_a_move_that_failed_says_why_until_it_is_ordered_again():
    """The setback at the place outlives the rollback, for good or by the deadline."""
    lab = passive(A)
    lab.tell(MoveOrdered(A.item, RAM, "user"))
    lab.tell(CopyFailed(copying(lab).op, "STO003", "disk full", permanent=True))
    lab.now_s += 9 * lab.limits.backoff_max_s
    lab.tell(Tick())
    setback = lab.state.backoff.get((A.item, RAM))
    assert (setback.permanent, setback.code, setback.reason) == (True, "STO003", "disk full")
    lab.tell(MoveOrdered(A.item, RAM, "user"))
    assert not lab.state.backoff
    lab.now_s += lab.limits.move_s
    lab.tell(Tick())
    setback = lab.state.backoff.get((A.item, RAM))
    assert (setback.permanent, setback.code) == (False, "TRC012")
    assert setback.reason == f"it was not at {RAM} within 10min"


def test_a_lost_replica_takes_the_refusals_of_its_drop_with_it():
    """Whoever brings it back is not told that it was in use; a failed copy is still remembered."""
    lab = passive(A)
    lab.see(VRAM, A)
    lab.tell(DropRefused(dropping(lab, place=VRAM).op, 1))
    lab.tell(CopyFailed(copying(lab).op, "STO009", "bad luck"))
    assert {place for _, place in lab.state.backoff} == {VRAM, RAM}
    lab.tell(NodeLost("desk", "gone"))
    assert {place for _, place in lab.state.backoff} == {RAM}


def test_a_second_order_replaces_the_first_and_keeps_the_way_back():
    """If both fail, the home is the one before the first."""
    lab = passive(A)
    lab.tell(MoveOrdered(A.item, RAM, "user"))
    lab.tell(MoveOrdered(A.item, ATTIC_RAM, "user"))
    assert lab.state.moves[A.item].before is None
    assert lab.state.home(A.item) == ATTIC_RAM


def test_a_want_that_was_given_up_is_gone():
    """Its end is no event for anybody, and a second end is ignored."""
    lab = passive(A)
    lab.tell(Wanted("w", A.item, 9.0))
    lab.tell(Wanted("w", A.item, 99.0))
    assert lab.state.wants["w"].deadline_s == 9.0
    lab.tell(WantEnded("w"))
    lab.tell(WantEnded("w"))
    assert not lab.state.wants


def test_a_removed_item_is_refused_until_it_is_forgotten():
    """It cannot be wanted or registered while its replicas are dropped, and leaves no trace afterwards."""
    lab = Lab().join()
    lab.register(role("a", home=RAM), at=(RAM,))
    (ram, ssd) = lab.tell(Removed(A.item))
    assert {ram.place, ssd.place} == {RAM, SSD}
    with pytest.raises(UserError, match="TRC025"):
        lab.tell(Wanted("w", A.item, 9.0))
    with pytest.raises(WorldError, match="TRC025"):
        lab.tell(Registered(A, (SSD,)))
    lab.do([ram, ssd])
    assert not lab.state.items


def test_removing_a_shard_keeps_its_log():
    """Its index is dropped, its documents are not ours to delete."""
    lab = Lab().join()
    lab.register(shard("s"), at=(RAM,))
    commands = lab.tell(Removed(shard("s").item))
    assert [command.place for command in commands] == [RAM]
    lab.do(commands)
    assert not lab.state.items
