"""When a schedule is due: the rules of cron, between two moments that the caller gives."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.config.cron import cron_fault, due

FRIDAY = datetime(2026, 11, 27, 9, 0)  # noqa: DTZ001  (a schedule is by the clock on the wall)
WEEK = timedelta(days=7)
MINUTE = timedelta(minutes=1)


def last(schedule: str, until: datetime = FRIDAY, within: timedelta = 60 * WEEK) -> str | None:
    """When the schedule was due last, as text."""
    assert cron_fault(schedule) is None
    found = due(schedule, until - within, until)
    return None if found is None else f"{found:%a %Y-%m-%d %H:%M}"


@pytest.mark.parametrize(
    ("schedule", "when"),
    [
        ("* * * * *", "Fri 2026-11-27 09:00"),
        ("0 9 * * 1-5", "Fri 2026-11-27 09:00"),
        ("1 9 * * *", "Thu 2026-11-26 09:01"),
        ("*/25 8 * * *", "Fri 2026-11-27 08:50"),
        ("5/20 8 * * *", "Fri 2026-11-27 08:45"),
        ("10-30/15 8 * * *", "Fri 2026-11-27 08:25"),
        ("30 7,20 * * *", "Fri 2026-11-27 07:30"),
        ("0 0 * * sun", "Sun 2026-11-22 00:00"),
        ("0 0 * * 7", "Sun 2026-11-22 00:00"),
        ("0 0 * * 0", "Sun 2026-11-22 00:00"),
        ("0 0 * * 5-7", "Fri 2026-11-27 00:00"),
        ("0 0 * * */2", "Thu 2026-11-26 00:00"),
        ("0 0 1 * *", "Sun 2026-11-01 00:00"),
        ("0 0 31 * *", "Sat 2026-10-31 00:00"),
        ("0 12 25 DEC *", "Thu 2025-12-25 12:00"),
        ("0 0 1 1-3 *", "Sun 2026-03-01 00:00"),
        ("0 0 30 2 *", None),
    ],
)
def test_a_schedule_was_due_last(schedule, when):
    """Minutes, hours, days, months and weekdays, with lists, ranges, steps and names."""
    assert last(schedule) == when


def test_a_leap_day_comes_after_years():
    """The rare day is found as well."""
    assert last("0 0 29 2 *", within=4 * 53 * WEEK) == "Thu 2024-02-29 00:00"


def test_day_of_the_month_and_of_the_week_are_an_or():
    """Where both are given, either names the day; where one of them is a star, the other does alone."""
    assert last("0 0 25 * mon") == "Wed 2026-11-25 00:00"
    assert last("0 0 13 * mon") == "Mon 2026-11-23 00:00"
    assert last("0 0 */2 * mon") == "Mon 2026-11-23 00:00"
    assert last("0 0 */2 * wed") == "Wed 2026-11-25 00:00"
    assert last("0 0 */2 * thu") == "Thu 2026-11-19 00:00"


def test_the_span_is_open_at_its_start_and_closed_at_its_end():
    """What was due at the last look is not due again, and what is due now is due."""
    assert due("0 9 * * *", FRIDAY - MINUTE, FRIDAY) == FRIDAY
    assert due("0 9 * * *", FRIDAY, FRIDAY + MINUTE) is None
    assert due("0 9 * * *", FRIDAY - timedelta(seconds=1), FRIDAY + timedelta(seconds=1)) == FRIDAY
    assert due("0 9 * * *", FRIDAY + timedelta(seconds=1), FRIDAY + timedelta(hours=23)) is None
    assert due("* * * * *", FRIDAY, FRIDAY) is None
    assert due("* * * * *", FRIDAY, FRIDAY - WEEK) is None


def test_all_of_time_is_looked_through():
    """A schedule that names no day ends at the first day of the calendar."""
    assert due("0 0 30 2 *", datetime.min, datetime(3, 1, 1)) is None  # noqa: DTZ001, DTZ901


def test_the_clock_on_the_wall_counts():
    """An hour that summer time skips is due once it has passed; one that comes twice is due once."""
    berlin = ZoneInfo("Europe/Berlin")
    before, after = datetime(2026, 3, 29, 1, 59, tzinfo=berlin), datetime(2026, 3, 29, 3, 0, tzinfo=berlin)
    found = due("30 2 * * *", before, after)
    assert found is not None
    assert (found.hour, found.minute) == (2, 30)
    first = datetime(2026, 10, 25, 2, 31, tzinfo=berlin, fold=0)
    assert due("30 2 * * *", first, first.replace(hour=2, minute=45, fold=1)) is None
    found = due("30 2 * * *", first.replace(minute=29), first.replace(fold=1))
    assert found == first.replace(minute=30)
    assert found.fold == 0


FIELDS = st.tuples(
    st.sampled_from(["*", "*/7", "0", "59", "10-20", "3,30"]),
    st.sampled_from(["*", "*/5", "0", "23", "8-10"]),
    st.sampled_from(["*", "*/9", "1", "31", "10-12"]),
    st.sampled_from(["*", "2", "11", "jan-mar"]),
    st.sampled_from(["*", "0", "7", "mon-wed", "*/3"]),
)


@given(FIELDS, st.integers(0, 4000), st.integers(0, 100_000))
def test_splitting_a_span_loses_nothing(fields, first, length):
    """Looking often finds what looking once finds: the later part of a span decides, else the earlier."""
    schedule, end = " ".join(fields), FRIDAY + timedelta(minutes=length)
    middle = max(FRIDAY, end - timedelta(minutes=first))
    whole = due(schedule, FRIDAY, end)
    assert whole == (due(schedule, middle, end) or due(schedule, FRIDAY, middle))
    if whole is not None:
        assert due(schedule, whole - MINUTE, whole) == whole
        assert due(schedule, whole, end) is None
