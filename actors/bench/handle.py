"""Handle: what one event costs the brain, by the size of the lab, and what an hour of asks costs."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from actors.bench.plan import sizes
from actors.bench.sheet import Goal, Sheet, at_most
from actors.bench.spread import Spread, percentile
from actors.bench.traffic import Size, Traffic

if TYPE_CHECKING:
    from actors.bench.plan import Plan

PARTS = ("curve", "hour")
CURVE = (
    Size(1, 62, 8, 8.0),
    Size(4, 200, 8, 16.0),
    Size(16, 1000, 8, 32.0),
    Size(64, 4000, 8, 64.0),
)
#: the lab of an hour at 50 asks a second, by slots
HOURS = (8, 16, 32)
HOUR_S, HOUR_GOAL_S = 3600, 20.0
#: what an event of the largest lab may cost, in microseconds
MEDIAN_US, P99_US = 1000.0, 3000.0


def run(plan: Plan) -> list[Sheet]:
    """Measure the seconds of CPU time that each `handle` takes while a pretended lab is in use."""
    sheets = []
    if plan.does("curve"):
        sheets += [curve(plan, size) for size in sizes(plan, CURVE, CURVE[:2])]
    if plan.does("hour"):
        sheets.append(hour(plan))
    return sheets


def curve(plan: Plan, size: Size) -> Sheet:
    """Return what events cost in a lab of one size, by kind."""
    seconds = 5 if plan.quick else 30
    plan.tell(f"{size}: {seconds} s of lab time")
    traffic = Traffic(size, random.Random(1))  # noqa: S311 -- seeded dice repeat; they guard no secret
    traffic.raise_lab()
    traffic.run(seconds)
    taken = traffic.taken
    largest = size is CURVE[-1]
    sheet = Sheet(
        f"handle: {size}, {size.asks_s:.0f} asks/s ({taken.cold / max(taken.asks, 1):.0%} cold), CPU time"
    )
    for kind, values in sorted(taken.by_kind.items()):
        _add(sheet, f"{size.nodes}/{size.items}: {kind}", values)
    every = _add(
        sheet,
        f"{size.nodes}/{size.items}: every event",
        taken.every,
        at_most(MEDIAN_US) if largest else None,
    )
    p99_us = percentile(every, 0.99)
    sheet.add(
        f"{size.nodes}/{size.items}: p99 of every event",
        Spread(p99_us, p99_us, p99_us, 1),
        "us",
        goal=at_most(P99_US) if largest else None,
    )
    return sheet


def _add(sheet: Sheet, what: str, values: list[float], goal: Goal | None = None) -> list[float]:
    """Add a line about seconds, told in microseconds; return these."""
    values_us = [1e6 * value for value in values]
    mean_us = sum(values_us) / len(values_us)
    note = f"mean {mean_us:.0f}, p99 {percentile(values_us, 0.99):.0f} us"
    sheet.add(what, Spread.of(values_us), "us", goal=goal, note=note)
    return values_us


def hour(plan: Plan) -> Sheet:
    """Return what `handle` takes of the CPU for an hour of lab time at 50 asks a second."""
    seconds = 30 if plan.quick else HOUR_S
    sheet = Sheet(f"{seconds} s of lab time at 50 asks/s, 200 items on one node: CPU time in handle")
    for slots in sizes(plan, HOURS, HOURS[:1]):
        plan.tell(f"{slots} slots: {seconds} s of lab time")
        traffic = Traffic(Size(1, 200, slots, 50.0, 0.05, 0.05), random.Random(1))  # noqa: S311 -- as above
        traffic.raise_lab()
        traffic.run(seconds)
        every = traffic.taken.every
        cold = traffic.taken.cold / max(traffic.taken.asks, 1)
        each_us = 1e6 * sum(every) / len(every)
        sheet.add(
            f"{slots} slots: handle",
            Spread(sum(every), sum(every), sum(every), 1),
            "s",
            goal=at_most(HOUR_GOAL_S * seconds / HOUR_S),
            note=f"{len(every)} events, {each_us:.0f} us each, {cold:.0%} of asks cold",
        )
    return sheet
