"""Who has to go so that an item fits: no room is promised twice in one pass."""

from placement.messages import Copy, Seen
from placement.policies import serve_wants
from placement.seating import Bookings
from placement.state import Room
from tests.placement.brain_lab import DESK, LIMITS, MIB, RAM, SSD, VRAM, Lab, remote, role


def test_room_that_was_promised_is_not_free_though_it_is_not_taken_yet():
    """Twenty are free and eighty will be; ninety are promised, so twenty are no longer to be had now."""
    surplus, large, small = (role(name, nbytes=n * MIB) for name, n in (("s", 80), ("l", 90), ("t", 20)))
    lab = Lab(policies=()).join()
    lab.register(surplus, at=(RAM,))
    lab.register(large, small)
    lab.now_s += 5.0
    bookings = Bookings(lab.state, lab.now_s, LIMITS)
    assert bookings.book(large.item, RAM).victims == (surplus.item,)
    assert not bookings.book(small.item, RAM).now


def test_what_is_fetched_for_a_want_is_suggested_once():
    """Two from an address lead the line, and whoever is behind them finds all seats in use."""
    seated, far = [role("a"), role("b")], [remote("x"), remote("y")]
    late = role("c")
    lab = Lab(policies=()).join(desk={**DESK, SSD: Room(1000 * MIB)})
    lab.register(*seated, at=(VRAM,))
    lab.register(*far, late)
    lab.now_s += 1.0
    lab.see(VRAM, *seated, seen=Seen(leases=1, hits=1))
    for spec in (*far, late):
        lab.want(spec)
    items = [spec.item for spec in (*far, late)]
    suggested = serve_wants(lab.state, items, lab.now_s, LIMITS)
    assert [each.item for each in suggested if isinstance(each, Copy)] == [spec.item for spec in far]
