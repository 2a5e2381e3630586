"""What `ps` shows: one row per role and shard, one per actor, one per place; plain values, no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from placement.units import format_bytes, format_seconds


@dataclass(frozen=True, slots=True)
class Thing:
    """A role or a shard as it stands now.

    `tier` is the highest tier with a ready copy ("" if none), `copies` says each place and its phase. Times
    are seconds; `idle_until_s` is how long from now until it is unloaded if nobody asks, None if it rests or
    is pinned.
    """

    kind: str
    name: str
    version: str
    tier: str
    node: str
    home: str
    copies: tuple[str, ...]
    nbytes: int
    leases: int
    last_used_s: float | None
    idle_until_s: float | None
    activations: int
    hits: int
    pinned: bool
    phase: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """An actor: its process and its resident bytes; `state` is running, starting or silent (no answer).

    An engine may be `stalled`: it has work and does not move. `doing` says in a line what it does.
    """

    name: str
    node: str
    pid: int
    rss: int
    state: str
    doing: str = ""


@dataclass(frozen=True, slots=True)
class Space:
    """A place's room in bytes.

    What is taken by base weights and KV cache, what items take, the budget, the seats; `memory` says how full
    the memory behind it is, by whom, and whether that presses.
    """

    place: str
    fixed: int
    used: int
    budget: int
    seats: str
    memory: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """The whole lab at one moment."""

    lab: str
    epoch: int
    things: tuple[Thing, ...]
    members: tuple[Member, ...]
    spaces: tuple[Space, ...]

    def thing(self, name: str) -> Thing:
        """Return the row of a role or shard; KeyError for a name that is not in the lab."""
        for thing in self.things:
            if thing.name == name:
                return thing
        raise KeyError(name)

    def __str__(self) -> str:
        table = [COLUMNS, *(cells(thing) for thing in self.things)]
        widths = [max(len(row[column]) for row in table) for column in range(len(COLUMNS))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        )

    def _repr_html_(self) -> str:
        head = "".join(f"<th style='text-align:left'>{escape(name)}</th>" for name in COLUMNS)
        body = "".join(
            "<tr>"
            + "".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in cells(thing))
            + "</tr>"
            for thing in self.things
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


COLUMNS = (
    "NAME", "VERSION", "TIER", "NODE", "SIZE", "LEASES",
    "LAST USED", "UNLOADS IN", "ACTIVATIONS", "HITS", "HOME",
)  # fmt: skip


def cells(thing: Thing) -> tuple[str, ...]:
    """Return a thing's row under COLUMNS, as text for people."""
    used = "never" if thing.last_used_s is None else f"{format_seconds(thing.last_used_s)} ago"
    until = (
        "pinned"
        if thing.pinned
        else "-"
        if thing.idle_until_s is None
        else format_seconds(thing.idle_until_s)
    )
    return (
        thing.name,
        thing.version or "-",
        "failed" if thing.phase == "failed" else thing.tier or thing.phase,
        thing.node,
        format_bytes(thing.nbytes) if thing.nbytes else "-",
        str(thing.leases),
        used,
        until,
        str(thing.activations),
        str(thing.hits),
        thing.home,
    )
