"""Seats: one item each, taken before it is filled, left only when nobody uses it."""

import pytest

from actors.lm.seats import Seats
from placement.errors import Busy, Cold, WorldError


class Clock:
    """A clock that a test sets."""

    now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    """A clock at 100 s."""
    return Clock()


@pytest.fixture
def seats(clock):
    """Two seats, one of them open for `a`."""
    seats = Seats(2, clock)
    seats.reserve("a")
    seats.open("a")
    return seats


def test_a_reserved_seat_is_taken_but_not_attached(seats):
    """While it is being filled an item takes a slot, is Cold for requests and is not reported."""
    assert seats.reserve("b") == 2
    with pytest.raises(Cold):
        seats.lease("b")
    assert list(seats.uses()) == ["a"]
    with pytest.raises(WorldError, match="a, b") as full:
        seats.reserve("c")
    assert full.value.code == "LM001"


def test_a_seat_that_is_left_can_be_taken(seats):
    """The freed slot goes to the next item, but not before it has been emptied."""
    assert seats.vacate("a") == 1
    assert seats.reserve("b") == 2
    seats.leave("a")
    assert seats.reopen("a") is None
    assert seats.reserve("c") == 1


def test_a_seat_with_leases_cannot_be_left(seats):
    """Busy tells how many; after the last release the seat can be left."""
    seats.lease("a")
    seats.lease("a")
    with pytest.raises(Busy, match="2 requests"):
        seats.vacate("a")
    seats.release("a")
    seats.release("a")
    assert seats.vacate("a") == 1
    with pytest.raises(Cold):
        seats.lease("a")


def test_idleness_counts_from_the_last_use(seats, clock):
    """An item is idle since it was attached or its last lease ended, and never while one is held."""
    clock.now_s = 130.0
    assert seats.uses()["a"].idle_s == 30.0
    seats.lease("a")
    clock.now_s = 150.0
    assert seats.uses()["a"].idle_s == 0.0
    seats.release("a")
    clock.now_s = 157.0
    assert seats.uses()["a"].idle_s == 7.0


def test_counts_outlive_the_seat(seats):
    """Hits and activations go on counting when an item leaves and comes back."""
    seats.lease("a")
    seats.release("a")
    seats.vacate("a")
    seats.leave("a")
    seats.reserve("a")
    seats.open("a")
    assert (seats.uses()["a"].hits, seats.uses()["a"].activations) == (1, 2)


def test_it_is_told_which_hits_are_from_before_an_item_came_back(seats):
    """The rest are the uses since it came."""
    for _ in range(3):
        seats.lease("a")
        seats.release("a")
    assert seats.uses()["a"].earlier == 0
    seats.vacate("a")
    seats.leave("a")
    seats.reserve("a")
    seats.open("a")
    seats.lease("a")
    assert (seats.uses()["a"].hits, seats.uses()["a"].earlier) == (4, 3)


@pytest.mark.parametrize("call", ["lease", "vacate"])
def test_an_unknown_item_is_cold(seats, call):
    """Every question about an item without a seat is answered Cold."""
    with pytest.raises(Cold):
        getattr(seats, call)("nobody")
    with pytest.raises(Cold):
        seats.admit("nobody", new_requests=False)
