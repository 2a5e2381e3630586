"""Moves of adapters between machines: copy, verify, flip, drain, drop, with the durable copy."""

import pytest

from placement.errors import UserError, WorldError
from placement.messages import (
    Copied,
    Copy,
    CopyFailed,
    Drop,
    MoveOrdered,
    NodeLost,
    Seen,
)
from placement.plan import objections
from placement.state import Room
from tests.placement.brain_lab import (
    ATTIC,
    ATTIC_RAM,
    ATTIC_SSD,
    MIB,
    RAM,
    SSD,
    VRAM,
    Lab,
    role,
)


def at_home(home=RAM, **changes):
    """Return a lab with one adapter at rest on the desk, and its spec."""
    lab, spec = Lab().join(), role("a", home=home, **changes)
    lab.do(lab.register(spec))
    return lab, spec


def durable(lab, spec):
    """Return where the brain takes the durable copy to be."""
    return lab.state.items[spec.item].durable


def test_a_file_is_on_the_other_machine_before_anything_else():
    """The SSD copy comes first, then the ordered place, and only then is the durable copy another."""
    lab, spec = at_home()
    (first,) = lab.tell(MoveOrdered(spec.item, ATTIC_RAM, "user"))
    assert (first.source, first.target) == (RAM, ATTIC_SSD)
    (then,) = lab.tell(Copied(first.op, spec.nbytes, 0.1))
    assert (then.source, then.target) == (ATTIC_SSD, ATTIC_RAM)
    assert durable(lab, spec) == SSD
    drops = lab.tell(Copied(then.op, spec.nbytes, 0.1))
    assert durable(lab, spec) == ATTIC_SSD
    assert {drop.place for drop in drops} == {RAM, SSD}
    lab.do(drops)
    assert [place for place, _ in lab.state.at(spec.item)] == [ATTIC_RAM, ATTIC_SSD]


def test_the_story_tells_where_the_durable_copy_is_now():
    """Whoever reads the story of an item sees its durable copy change machines."""
    lab, spec = at_home()
    lab.do(lab.tell(MoveOrdered(spec.item, ATTIC_SSD, "user")))
    told = [text for item, text in lab.news if item == spec.item]
    assert "move to attic:SSD done" in told
    assert "its durable copy is at attic:SSD now, and no longer at desk:SSD" in told


def test_a_slot_in_use_stays_until_it_drains():
    """A request that decodes on the old machine keeps its slot, and the rest of the move is done."""
    lab, spec = at_home()
    lab.do(lab.want(spec))
    lab.now_s += 3.0
    lab.see(VRAM, spec, seen=Seen(leases=1))
    drops = [c for c in lab.do(lab.tell(MoveOrdered(spec.item, ATTIC_SSD, "user"))) if isinstance(c, Drop)]
    assert {drop.place for drop in drops} == {RAM, SSD, VRAM}


def test_moving_to_an_engine_elsewhere_leaves_the_file_where_it_is():
    """A slot is no home for a file: an adapter in VRAM rests on its own machine's SSD."""
    lab, spec = Lab().join(), role("a", home=ATTIC_SSD, durable=ATTIC_SSD)
    lab.do(lab.register(spec))
    lab.do(lab.tell(MoveOrdered(spec.item, VRAM, "user")))
    assert durable(lab, spec) == ATTIC_SSD


def test_what_is_unloaded_goes_down_on_its_new_machine():
    """`unload: {to: SSD}` means the SSD of where the item lives."""
    lab, spec = at_home(unload_to=SSD, idle_s=50.0)
    lab.do(lab.tell(MoveOrdered(spec.item, ATTIC_RAM, "user")))
    lab.do(lab.wait(100))
    assert [place for place, _ in lab.state.at(spec.item)] == [ATTIC_SSD]


def test_a_move_that_failed_leaves_the_old_file_the_durable_one():
    """When the other machine cannot keep the file, nothing has changed but a line in the story."""
    lab, spec = at_home()
    (first,) = lab.tell(MoveOrdered(spec.item, ATTIC_RAM, "user"))
    lab.tell(CopyFailed(first.op, "STO003", "the disk is broken", permanent=True))
    assert lab.state.home(spec.item) == RAM
    assert durable(lab, spec) == SSD
    assert not lab.state.moves
    assert (spec.item, "move to attic:RAM undone: the disk is broken [STO003]") in lab.news


def test_a_move_whose_second_half_failed_leaves_a_copy_that_goes_when_idle():
    """The file that was made on the other machine is surplus after the move was undone."""
    lab, spec = at_home(idle_s=50.0)
    (first,) = lab.tell(MoveOrdered(spec.item, ATTIC_RAM, "user"))
    (then,) = lab.tell(Copied(first.op, spec.nbytes, 0.1))
    lab.tell(CopyFailed(then.op, "STO003", "no memory", permanent=True))
    assert durable(lab, spec) == SSD
    (drop,) = lab.wait(100)
    assert (drop.item, drop.place) == (spec.item, ATTIC_SSD)


@pytest.mark.parametrize("half", [0, 1], ids=["before the file", "before the rest"])
def test_a_machine_that_dies_in_the_middle_undoes_the_move(half):
    """The old copies stay where they were until the new ones are whole."""
    lab, spec = at_home()
    copies = lab.tell(MoveOrdered(spec.item, ATTIC_RAM, "user"))
    if half:
        copies = lab.tell(Copied(copies[0].op, spec.nbytes, 0.1))
    lab.tell(NodeLost("attic", "it burns"))
    lab.now_s += lab.limits.move_s
    lab.wait(1)
    lab.wait(20)
    assert not lab.state.moves
    assert durable(lab, spec) == SSD
    assert lab.phase(spec, RAM) == lab.phase(spec, SSD) == "ready"


def test_an_old_machine_that_dies_after_the_copies_does_not_hold_the_move_up():
    """What is whole on the new machine is enough; what the old one still holds is told when it is back."""
    lab, spec = at_home()
    (first,) = lab.tell(MoveOrdered(spec.item, ATTIC_RAM, "user"))
    (then,) = lab.tell(Copied(first.op, spec.nbytes, 0.1))
    lab.tell(NodeLost("desk", "it burns"))
    lab.tell(Copied(then.op, spec.nbytes, 0.1))
    assert durable(lab, spec) == ATTIC_SSD
    assert [place for place, _ in lab.state.at(spec.item)] == [ATTIC_RAM, ATTIC_SSD]


def test_a_machine_that_dies_after_the_move_finds_its_old_copies_still_there():
    """Old copies are not dropped while the new durable copy is out of reach."""
    lab, spec = at_home()
    (first,) = lab.tell(MoveOrdered(spec.item, ATTIC_SSD, "user"))
    drops = lab.tell(Copied(first.op, spec.nbytes, 0.1))
    lab.tell(NodeLost("attic", "it burns"))
    for drop in drops:
        lab.now_s += 100.0
        lab.see(drop.place, spec)
    assert {place for place, _ in lab.state.at(spec.item)} >= {RAM, SSD}


def test_an_order_without_clearing_sends_only_the_old_file_away():
    """After a restart an order is given again, and what is in use there stays."""
    lab, spec = at_home()
    lab.do(lab.tell(MoveOrdered(spec.item, ATTIC_RAM, "user", clears=False)))
    assert lab.phase(spec, RAM) == "ready"
    assert lab.phase(spec, SSD) is None


def test_a_move_must_fit_the_disk_of_the_other_machine_too():
    """The file has to lie there, so its bytes are counted before anything moves."""
    lab, spec = Lab().join(attic={**ATTIC, ATTIC_SSD: Room(5 * MIB)}), role("a")
    lab.register(spec)
    with pytest.raises(WorldError, match="attic:SSD") as caught:
        lab.tell(MoveOrdered(spec.item, ATTIC_RAM, "user"))
    assert caught.value.code == "TRC022"


def test_the_room_of_a_move_that_goes_on_is_not_given_to_another():
    """Two moves to a disk that holds one of them: the second is refused."""
    lab = Lab().join(attic={**ATTIC, ATTIC_SSD: Room(15 * MIB)})
    one, two = role("one"), role("two")
    lab.register(one, two)
    lab.tell(MoveOrdered(one.item, ATTIC_RAM, "user"))
    with pytest.raises(WorldError, match="stay with one") as caught:
        lab.tell(MoveOrdered(two.item, ATTIC_RAM, "user"))
    assert caught.value.code == "TRC022"


def test_a_machine_without_a_disk_takes_no_adapter():
    """There must be a place for the durable copy."""
    lab, spec = Lab().join(attic={ATTIC_RAM: Room(50 * MIB)}), role("a")
    lab.register(spec)
    with pytest.raises(UserError, match="attic:SSD") as caught:
        lab.tell(MoveOrdered(spec.item, ATTIC_RAM, "user"))
    assert caught.value.code == "TRC021"


def test_a_journey_there_and_back_ends_where_it_began():
    """The durable copy comes back with the item, and the other machine keeps nothing."""
    lab, spec = at_home(home=SSD)
    lab.do(lab.tell(MoveOrdered(spec.item, ATTIC_SSD, "user")))
    lab.do(lab.tell(MoveOrdered(spec.item, SSD, "user")))
    assert [place for place, _ in lab.state.at(spec.item)] == [SSD]
    assert lab.state.items[spec.item] == spec


def test_a_want_in_the_middle_is_served_from_the_nearest_copy():
    """An item on its way to another machine is brought to its engine meanwhile."""
    lab, spec = at_home()
    lab.tell(MoveOrdered(spec.item, ATTIC_RAM, "user"))
    (copy,) = [command for command in lab.want(spec) if isinstance(command, Copy)]
    assert (copy.source, copy.target) == (RAM, VRAM)


def test_an_idle_home_does_not_keep_a_move_from_ending():
    """A move that takes longer than the item may idle still ends at its place."""
    lab, spec = at_home(unload_to=SSD, idle_s=5.0)
    (first,) = lab.tell(MoveOrdered(spec.item, ATTIC_RAM, "user"))
    lab.wait(8)
    lab.do([first])
    assert not lab.state.moves
    assert durable(lab, spec) == ATTIC_SSD
    assert lab.state.home(spec.item) == ATTIC_RAM


def test_what_is_there_already_waits_for_the_file():
    """An adapter that lives elsewhere in RAM only: its move there is done when its file is there too."""
    lab, spec = at_home(home=ATTIC_RAM)
    lab.do(lab.want(spec))
    lab.now_s += 5.0
    (first,) = lab.tell(MoveOrdered(spec.item, ATTIC_RAM, "user"))
    assert (first.source, first.target) == (ATTIC_RAM, ATTIC_SSD)
    assert durable(lab, spec) == SSD
    assert spec.item in lab.state.moves
    drops = lab.tell(Copied(first.op, spec.nbytes, 0.1))
    assert durable(lab, spec) == ATTIC_SSD
    assert {drop.place for drop in drops} == {SSD, VRAM}


def test_a_file_that_came_first_stays_until_the_rest_is_there():
    """Nobody takes the room of a move that goes on."""
    lab, spec = at_home()
    (first,) = lab.tell(MoveOrdered(spec.item, ATTIC_RAM, "user"))
    lab.tell(Copied(first.op, spec.nbytes, 0.1))
    drop = Drop("", spec.item, ATTIC_SSD, "")
    assert "on its way to attic:RAM" in list(objections(lab.state, drop, lab.now_s, lab.limits))
