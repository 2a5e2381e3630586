"""What a new coordinator takes over of what was ordered, and gives out again."""

from dataclasses import replace

import pytest

from placement.messages import Removed
from placement.resume import as_ordered, resting_on, unmet
from placement.state import NETWORK
from tests.placement.brain_lab import ATTIC_RAM, ATTIC_SSD, RAM, SSD, VRAM, Lab, remote, role

A = role("a", home=SSD, unload_to=RAM)
FAR_VRAM = VRAM._replace(node="attic")


@pytest.mark.parametrize(
    ("ordered", "home"),
    [
        (RAM, RAM),
        (ATTIC_RAM, SSD),
        (FAR_VRAM, VRAM),
        (NETWORK, NETWORK),
        (None, SSD),
    ],
    ids=["here", "a node that is away", "a seat elsewhere", "its address", "nothing"],
)
def test_an_ordered_home_holds_where_it_can(ordered, home):
    """Of the nodes only the desk is here; what cannot be kept now is as the file says."""
    homes = {} if ordered is None else {A.item: ordered}
    assert as_ordered(A, homes, {}, {"desk"}) == replace(A, home=home)


def test_what_was_ordered_of_a_pin_comes_before_the_file():
    """In both directions; and without an order the file holds."""
    pinned = replace(A, pinned=True)
    assert as_ordered(A, {}, {A.item: True}, {"desk"}).pinned
    assert not as_ordered(pinned, {}, {A.item: False}, {"desk"}).pinned
    assert as_ordered(pinned, {}, {}, {"desk"}).pinned


def told(spec, homes, *, at=()):
    """Return where orders that are given again send an item, once it is registered."""
    lab = Lab(policies=()).join()
    lab.register(spec, at=at)
    return [order.to for order in unmet(lab.state, homes)]


def test_an_order_that_is_not_met_is_given_again():
    """Not one that is met, nor what only the file says, on the item's own node."""
    upstairs = replace(A, home=RAM)
    assert told(upstairs, {A.item: RAM}) == [RAM]
    assert told(upstairs, {A.item: RAM}, at=(RAM,)) == []
    assert told(upstairs, {}) == []
    assert told(upstairs, {A.item: SSD}) == []


def test_a_home_on_another_node_is_an_order_whoever_said_it():
    """The file may say so too: the durable copy has to go along. A seat in the engine is no such home."""
    assert told(replace(A, home=ATTIC_SSD), {}) == [ATTIC_SSD]
    assert told(replace(A, home=VRAM, durable=ATTIC_SSD), {}) == []


def test_what_is_being_removed_is_ordered_nowhere():
    """Though its order is in the ledger still."""
    lab = Lab(policies=()).join()
    lab.register(replace(A, home=RAM))
    lab.want(A)
    lab.tell(Removed(A.item))
    assert A.item in lab.state.retired
    assert unmet(lab.state, {A.item: RAM}) == []


def test_an_item_unloads_on_the_node_where_its_file_is():
    """Durable copy, or landing of what lies at an address, and what it unloads to go together."""
    assert resting_on(A, ATTIC_SSD) == replace(A, durable=ATTIC_SSD, unload_to=ATTIC_RAM)
    far = remote("far", unload_to=RAM)
    assert resting_on(far, ATTIC_SSD) == replace(far, landing=ATTIC_SSD, unload_to=ATTIC_RAM)
    assert resting_on(A, SSD) is A


def test_who_unloads_elsewhere_goes_on_doing_so():
    """To the address, or to a node that was not the file's."""
    for to in (None, NETWORK, ATTIC_RAM):
        spec = remote("far", unload_to=to)
        assert resting_on(spec, ATTIC_SSD).unload_to == to
