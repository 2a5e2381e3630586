"""A lab that is damaged comes back to its file: from durable copies, with the cause told, and in no hurry."""

import pytest

from placement.messages import (
    Beat,
    Copied,
    Copy,
    CopyFailed,
    NodeJoined,
    NodeLost,
    Registered,
    Removed,
    Seen,
    Tick,
)
from placement.state import NETWORK
from tests.placement.brain_lab import ATTIC, ATTIC_RAM, ATTIC_SSD, RAM, SSD, VRAM, Lab, remote, role

HOUR_S = 3600.0
SEEN = Seen(idle_s=1.0)
#: six pauses that double, then one a minute
MOST_TRIES = 6 + 60


def at_rest(spec):
    """Return a lab in which an item is at home."""
    lab = Lab().join()
    lab.do(lab.register(spec))
    return lab


def tries(lab, spec, seconds, *failure):
    """Let time pass while each copy of an item fails, which commands nothing by itself; return the copies."""
    copies, until_s = [], lab.now_s + seconds
    while lab.now_s < until_s:
        for command in lab.wait(until_s - lab.now_s):
            if isinstance(command, Copy) and command.item == spec.item:
                copies.append(command)
                assert lab.tell(CopyFailed(command.op, *failure)) == []
    return copies


def back(lab, node, rooms, *held):
    """Return what is commanded once a node is there again and its disk holds these items."""
    disk = next(place for place in rooms if place.tier is SSD.tier)
    commands = lab.tell(NodeJoined(node, rooms))
    shown = {place: {} for place in rooms} | {disk: {spec.item: SEEN for spec in held}}
    return commands + lab.tell(Beat(node, lab.now_s, shown))


def test_what_a_lost_node_held_is_read_from_its_disk_once_it_is_back():
    """While it is away nothing is tried; with it the item comes home, and the story says who was lost."""
    spec = role("a", home=ATTIC_RAM, durable=ATTIC_SSD)
    lab = at_rest(spec)
    assert lab.tell(NodeLost("attic", "its raylet died")) == []
    assert any("attic" in text and "no longer at attic:RAM" in text for _, text in lab.news)
    assert (spec.item, "out of reach at attic:SSD: node attic is lost: its raylet died") in lab.news
    lab.now_s += HOUR_S
    assert lab.tell(Tick()) == []
    (copy,) = back(lab, "attic", ATTIC, spec)
    assert (spec.item, "in reach again at attic:SSD: node attic is back") in lab.news
    assert (copy.source, copy.target) == (ATTIC_SSD, ATTIC_RAM)


def test_a_store_that_lost_its_memory_is_filled_from_its_disk():
    """A beat that shows RAM empty brings the item home again, in one copy."""
    spec = role("a", home=RAM)
    lab = at_rest(spec)
    lab.now_s += 1.0
    (copy,) = lab.see(RAM)
    assert (copy.source, copy.target) == (SSD, RAM)


@pytest.mark.parametrize(
    "failure",
    [("STO002", "it arrived with another digest"), ("STO003", "no space left on device")],
    ids=["corrupt", "disk full"],
)
def test_a_copy_that_fails_for_an_hour_is_tried_a_bounded_number_of_times(failure):
    """It goes on being tried, at longer and longer pauses, and comes home once that can be."""
    spec = role("a", home=RAM)
    lab = Lab().join()
    (first,) = lab.register(spec)
    lab.tell(CopyFailed(first.op, *failure))
    copies = tries(lab, spec, HOUR_S, *failure)
    assert MOST_TRIES // 2 < len(copies) <= MOST_TRIES
    (again,) = lab.wait(lab.limits.backoff_max_s + 5.0)
    lab.tell(Copied(again.op, spec.nbytes, 0.1))
    assert lab.phase(spec, RAM) == "ready"


def test_one_item_that_fails_does_not_hold_up_another():
    """The pause is the item's own: who fits, and can be read, comes home at once."""
    lab, ill, well = Lab().join(), role("ill", home=RAM), role("well", home=RAM)
    (first,) = lab.register(ill)
    lab.tell(CopyFailed(first.op, "STO002", "it arrived with another digest"))
    (other,) = lab.register(well)
    assert (other.item, other.target) == (well.item, RAM)


def test_what_failed_on_a_node_is_tried_at_once_when_that_is_back_and_then_more_rarely():
    """A node that comes and goes does not begin the pauses anew: each return is one try."""
    spec = role("a", home=ATTIC_RAM, durable=ATTIC_SSD)
    lab = Lab().join()
    (first,) = lab.register(spec)
    lab.tell(CopyFailed(first.op, "STO009", "bad memory"))
    tries(lab, spec, 120.0, "STO009", "bad memory")
    setback = lab.state.backoff[spec.item, ATTIC_RAM]
    lab.tell(NodeLost("attic", "it is repaired"))
    lab.now_s = setback.until_s - 20.0
    (again,) = back(lab, "attic", ATTIC, spec)
    lab.tell(CopyFailed(again.op, "STO009", "bad memory"))
    later = lab.state.backoff[spec.item, ATTIC_RAM]
    assert later.failures == setback.failures + 1
    assert later.until_s - lab.now_s == lab.limits.backoff_max_s


def test_an_address_that_holds_another_version_is_not_asked_again_until_somebody_says_so():
    """Trying cannot help; registered again, which an update does, the item comes at once."""
    spec = remote("far", home=SSD)
    lab = Lab().join()
    (first,) = lab.register(spec)
    assert (first.source, first.target) == (NETWORK, SSD)
    lab.tell(CopyFailed(first.op, "ADP034", "the address gives version 2", permanent=True))
    assert tries(lab, spec, HOUR_S, "ADP034", "the address gives version 2", True) == []
    (again,) = lab.tell(Registered(spec, (NETWORK,)))
    assert (again.source, again.target) == (NETWORK, SSD)


def test_a_version_that_was_tried_in_vain_leaves_the_one_before_as_the_one_of_its_name():
    """What habits tell of a role goes on to mean the version that serves."""
    old = role("a", home=VRAM)
    new = role("a", home=VRAM, item="a@2")
    lab = at_rest(old)
    lab.do(lab.register(new))
    assert lab.state.versions["a"] == new.item
    lab.do(lab.tell(Removed(new.item)))
    assert new.item not in lab.state.items
    assert lab.state.versions["a"] == old.item
