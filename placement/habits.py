"""Who speaks after whom: a table of transitions between roles, learned from the order of their uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

#: whoever is used within so many uses of others is taken to follow: as the n-th, it counts 1 / sqrt(n)
WINDOW = 6
#: each use of a role makes what followed on its earlier ones count this much
FADES = 0.9
#: at most so many roles have a row, and so many followers each
ROWS, FOLLOWERS = 512, 12
#: less than this speaks for nobody: with few uses, chance alone makes that much
LIKELY = 0.25
#: a row counts as if its role had been used so often more, with nobody following: few uses prove little
DOUBT = 6.0


@dataclass(frozen=True, slots=True)
class Row:
    """Uses of a role, older ones counted less, and after how many each follower came."""

    uses: float = 0.0
    followers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Habits:
    """Rows by role, the one used last at the end, and the roles used of late, the latest first.

    `likely` follows from both: who is likely to be used within `WINDOW` uses, and how likely, 0 to 1.
    """

    rows: Mapping[str, Row] = field(default_factory=dict)
    recent: tuple[str, ...] = ()
    likely: Mapping[str, float] = field(default_factory=dict)


def followed(habits: Habits, name: str) -> Habits:
    """Return the habits after a use of `name`: it followed on all used since its last use."""
    if habits.recent[:1] == (name,):
        return habits
    rows = dict(habits.rows)
    for lag, before in enumerate(_open(habits.recent, name), start=1):
        row = rows.get(before)
        if row is not None:
            followers = {**row.followers, name: row.followers.get(name, 0.0) + lag**-0.5}
            if len(followers) > FOLLOWERS:
                del followers[min(followers, key=lambda each: (each == name, followers[each]))]
            rows[before] = replace(row, followers=followers)
    row = rows.pop(name, Row())
    faded = {each: weight * FADES for each, weight in row.followers.items()}
    rows[name] = Row(row.uses * FADES + 1, faded)
    while len(rows) > ROWS:
        del rows[next(iter(rows))]
    recent = (name, *habits.recent)[:WINDOW]
    return Habits(rows, recent, chances(rows, recent))


def chances(rows: Mapping[str, Row], recent: tuple[str, ...]) -> dict[str, float]:
    """Return who is likely to follow on those used of late, the latest first, and how likely."""
    told: dict[str, float] = {}
    for place, before in enumerate(recent):
        row = rows.get(before)
        if row is None:
            continue
        came = recent[:place]
        # the use that is going on counts among the row's uses, and has had no time to be followed
        past = row.uses - 1 + place / WINDOW + DOUBT
        for name, weight in row.followers.items():
            if name not in came:
                told[name] = max(told.get(name, 0.0), min(weight / past, 1.0))
    return told


def leader(habits: Habits, name: str) -> str:
    """Return after whom `name` is likely now, "" if it is after nobody."""
    best, told = "", 0.0
    for before in habits.recent:
        row = habits.rows.get(before)
        if row is not None and row.followers.get(name, 0.0) > told:
            best, told = before, row.followers[name]
    return best


def _open(recent: tuple[str, ...], name: str) -> tuple[str, ...]:
    """Return those used since the last use of `name`: it has followed on the ones before already."""
    return recent[: recent.index(name)] if name in recent else recent


def told(habits: Habits) -> dict[str, tuple[float, Mapping[str, float]]]:
    """Return the rows as plain values, to be written down: by role its uses and its followers."""
    return {name: (row.uses, row.followers) for name, row in habits.rows.items()}


def said(written: Mapping[str, tuple[float, Mapping[str, float]]]) -> Habits:
    """Return the habits that `told` wrote down; who spoke last is not known any more."""
    return Habits({name: Row(uses, dict(followers)) for name, (uses, followers) in written.items()})
