"""The five fields of a cron schedule: checked with the position of what is wrong, and when it is due."""

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


@dataclass(frozen=True, slots=True)
class _Field:
    label: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def value(self, text: str) -> int | None:
        """Return the number that `text` means here, or None."""
        if text.lower() in self.names:
            return self.low + self.names.index(text.lower())
        if not re.fullmatch(r"[0-9]{1,2}", text) or not self.low <= int(text) <= self.high:
            return None
        return int(text)


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 7, _DAYS),
)


@dataclass(frozen=True, slots=True)
class CronFault:
    """What is wrong with a schedule, and at which character of its text."""

    message: str
    offset: int


def cron_fault(text: str) -> CronFault | None:
    """Return the first fault of the schedule "minute hour day month weekday", or None if it is valid."""
    words = list(re.finditer(r"\S+", text))
    if len(words) != len(_FIELDS):
        message = f"a schedule has 5 fields (minute hour day month weekday), this one has {len(words)}"
        return CronFault(message, words[5].start() if len(words) > len(_FIELDS) else len(text.rstrip()))
    for number, (field, word) in enumerate(zip(_FIELDS, words, strict=True), start=1):
        for part in re.finditer(r"[^,]+|(?<=,)(?=,|$)|^(?=,)", word[0]):
            if not _valid(field, part[0]):
                message = (
                    f"field {number} ({field.label}): {part[0]!r} is not *, a value from {field.low} to "
                    f"{field.high}, a range such as {field.low}-{field.high}, or one with a step such as */5"
                )
                return CronFault(message, word.start() + part.start())
    return None


def _valid(field: _Field, part: str) -> bool:
    span, slash, step = part.partition("/")
    if slash and not (re.fullmatch(r"[0-9]{1,2}", step) and 1 <= int(step) <= field.high):
        return False
    if span == "*":
        return True
    first, dash, last = span.partition("-")
    low = field.value(first)
    high = field.value(last) if dash else low
    return low is not None and high is not None and low <= high


def due(schedule: str, since: datetime, until: datetime) -> datetime | None:
    """Return the latest minute after `since`, up to `until`, that a valid schedule names; None if none is.

    Both are in the one timezone that the schedule means, by the clock on its wall: an hour that the clock
    skips is due when it has passed, one that it shows twice is due once. As cron has it, a day is named by
    its day of the month or of the week where both are given, else by both.
    """
    minutes, hours, days, months, weekdays = (
        _named(field, text) for field, text in zip(_FIELDS, schedule.split(), strict=True)
    )
    either = not any(text.startswith("*") for text in schedule.split()[2::2])
    times = [
        (hour, minute) for hour in sorted(hours, reverse=True) for minute in sorted(minutes, reverse=True)
    ]

    def named(day: date) -> bool:
        by_month, by_week = day.day in days, day.isoweekday() % 7 in weekdays
        return day.month in months and (by_month or by_week if either else by_month and by_week)

    day = until.date()
    while day >= since.date():
        if named(day):
            for hour, minute in times:
                at = until.replace(day.year, day.month, day.day, hour, minute, 0, 0, fold=0)
                if at <= until:
                    if at > since:
                        return at
                    break
        if day == date.min:
            return None
        day -= timedelta(days=1)
    return None


def _named(field: _Field, text: str) -> frozenset[int]:
    """Return the values that a field of a valid schedule names; Sunday is 0."""
    named: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = ("*", "", "") if span == "*" else span.partition("-")
        low = field.low if first == "*" else field.value(first) or 0
        high = field.high if first == "*" or (step and not last) else field.value(last or first) or 0
        named.update(range(low, high + 1, int(step or 1)))
    return frozenset(value % 7 if field.high == 7 else value for value in named)
