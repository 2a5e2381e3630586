"""Where the world is other than the file: orders, things said since, items that are not where they rest."""

from placement.messages import MoveOrdered, PinSet
from placement.preview.drift import astray, said_since
from placement.preview.entries import Change, Field
from tests.placement.brain_lab import LIMITS, MIB, RAM, SSD, Lab, role


def drift(lab, *specs):
    """What is told of a lab whose file says these items."""
    homes = {spec.item: (spec.home, spec.pinned) for spec in specs}
    return [str(one) for one in astray(lab.state, homes, lab.now_s, LIMITS)]


def test_a_lab_at_rest_has_no_drift():
    """Items that are at their homes, by the file and in the world, are not told."""
    coder = role("coder", RAM)
    lab = Lab().join()
    lab.do(lab.register(coder))
    assert drift(lab, coder) == []


def test_orders_are_drift_from_the_file():
    """A move and a pin are told with what the file says and that they were ordered."""
    coder = role("coder", RAM)
    lab = Lab().join()
    lab.do(lab.register(coder))
    lab.do(lab.tell(MoveOrdered(coder.item, SSD, "the user")))
    lab.do(lab.tell(PinSet(coder.item, True, "the user")))
    assert drift(lab, coder) == [
        "role coder home: desk:RAM in the file, desk:SSD in the lab (ordered)",
        "role coder pin: not pinned in the file, pinned in the lab (ordered)",
    ]


def test_an_item_that_finds_no_room_is_told_with_the_numbers():
    """What should rest in a place that is full is told with where it is, and who takes the room."""
    large, small = role("large", RAM, nbytes=80 * MIB), role("small", RAM, nbytes=30 * MIB)
    lab = Lab().join()
    lab.do(lab.register(large, small))
    (told,) = drift(lab, large, small)
    assert told.startswith(
        "role small place: desk:RAM in the file, desk:SSD in the lab (desk:RAM has 20.0 MiB"
    )


def test_what_was_said_since_is_told_by_its_fields():
    """Added, removed and changed entries are told apart."""
    changes = (
        Change("+", "role", "critic", ()),
        Change("-", "role", "artist", ()),
        Change("~", "role", "coder", (Field("persona", "You code.", "You count."),)),
    )
    assert [str(one) for one in said_since(changes)] == [
        "role critic: nothing in the file, there in the lab (not in the file)",
        "role artist: there in the file, nothing in the lab (not in the lab)",
        "role coder persona: You code. in the file, You count. in the lab",
    ]
