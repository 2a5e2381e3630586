"""Durable copies that are built again: how often, how soon after a failure, and what the story says of it."""

from itertools import pairwise

from placement.mending import Mending
from placement.state import Item

A, B = Item("a@1"), Item("b@1")
HOUR_S = 3600


def attempts(mending, item, seconds, why, *, since_s=0):
    """Have a beat each second try an item, which fails if there is a reason; return when it was tried."""
    times = []
    for now_s in range(since_s, since_s + seconds):
        if mending.begin(item, now_s):
            mending.end(item, now_s, why)
            times.append(now_s)
    return times


def test_what_fails_for_an_hour_is_tried_a_bounded_number_of_times():
    """The pause doubles up to a minute: once a second at first, once a minute in the end."""
    times = attempts(Mending(), A, HOUR_S, "no source")
    assert times[:7] == [0, 1, 3, 7, 15, 31, 63]
    assert {after - before for before, after in pairwise(times[6:])} == {60}


def test_a_world_that_changed_is_found_within_a_minute_and_ends_the_pauses():
    """After many failures the next try goes well, and one that is lost later is tried at once again."""
    mending = Mending()
    attempts(mending, A, HOUR_S, "no source")
    (mended, *_) = attempts(mending, A, 61, "", since_s=HOUR_S)
    assert mended < HOUR_S + 61
    assert attempts(mending, A, 4, "no source", since_s=HOUR_S + 100) == [HOUR_S + 100 + n for n in (0, 1, 3)]


def test_an_item_is_built_by_one_at_a_time():
    """While a try goes on, however long, no beat begins another; other items do not wait for it."""
    mending = Mending()
    assert mending.begin(A, 0.0)
    assert not mending.begin(A, 1000.0)
    assert mending.begin(B, 0.0)


def test_a_reason_is_told_once_and_another_one_anew():
    """The story says why it cannot be built and when it is tried again, not at each try."""
    mending = Mending()
    told = []
    for now_s, why in enumerate(["disk full [STO003]"] * 2 + ["no weights [ADP002]"]):
        assert mending.begin(A, 100.0 * now_s)
        told.append(mending.end(A, 100.0 * now_s, why))
    assert told[0] == (
        "its file is gone and cannot be built again: disk full [STO003]; "
        "tried again in 1s, later each time up to 1min"
    )
    assert (told[1], "ADP002" in told[2]) == ("", True)


def test_what_was_well_for_long_begins_with_the_shortest_pause():
    """A failure of long ago says nothing of now."""
    mending = Mending()
    attempts(mending, A, HOUR_S, "no source")
    assert attempts(mending, A, 4, "no source", since_s=2 * HOUR_S) == [2 * HOUR_S + n for n in (0, 1, 3)]
