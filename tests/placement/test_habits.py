"""Who speaks after whom: learned from the order of uses, forgotten again, and bounded."""

from placement.habits import FOLLOWERS, LIKELY, ROWS, Habits, followed, leader, said, told


def used(habits, *names):
    """Return the habits after these uses."""
    for name in names:
        habits = followed(habits, name)
    return habits


def test_who_always_follows_becomes_likely():
    """After a few rounds at a table the next speaker is likely, and it is told after whom."""
    habits = used(Habits(), *["a", "b", "x", "y", "z", "u", "v", "w"] * 6, "a")
    assert habits.likely["b"] > LIKELY
    assert leader(habits, "b") == "a"


def test_who_followed_once_is_not_likely():
    """One coincidence proves nothing."""
    assert used(Habits(), "a", "b", "c", "d", "e", "f", "g", "a").likely.get("b", 0.0) < 0.2


def test_who_has_spoken_is_no_longer_expected_for_that():
    """The use that was foretold has come."""
    habits = used(Habits(), *["a", "b", "c", "d", "e", "f", "g", "h"] * 6, "a")
    assert used(habits, "b").likely.get("b", 0.0) < habits.likely["b"] / 2


def test_a_new_habit_takes_the_place_of_an_old_one():
    """Who no longer follows fades."""
    old = used(Habits(), *["a", "b", "r", "s", "t", "u", "v", "w"] * 8)
    new = used(old, *["a", "c", "r", "s", "t", "u", "v", "w"] * 15, "a")
    assert new.likely["c"] > LIKELY > new.likely.get("b", 0.0)


def test_the_table_is_bounded():
    """However many roles there are, and however many follow on one, rows and followers have their bounds."""
    habits = used(Habits(), *(f"r{number * 7 % 997}" for number in range(1500)))
    assert len(habits.rows) == ROWS
    hub = used(Habits(), *(name for number in range(60) for name in ("hub", f"r{number}")))
    assert len(hub.rows["hub"].followers) == FOLLOWERS


def test_what_was_written_down_is_read_back():
    """The rows are the same; who spoke last is not known."""
    habits = used(Habits(), "a", "b", "a", "b")
    back = said(told(habits))
    assert set(habits.rows) == {"a", "b"}
    assert all(row.followers and row.uses for row in habits.rows.values())
    assert dict(back.rows) == dict(habits.rows)
    assert back.recent == ()
