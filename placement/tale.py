"""What an item's story tells of copies, drops and moves: how each end is written with its cause, and read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from placement.messages import Copied, Copy, CopyFailed, Dropped, DropRefused, describe
from placement.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from placement.messages import Drop, Event
    from placement.place import Place

_COPIED = re.compile(
    r"copied [\d.]+ [KMGTP]?i?B from (?P<source>\S+) to (?P<place>\S+) in (?P<took>\S+): "
    r"(?P<cause>.*) \(op [^()]*\)"
)
_DROPPED = re.compile(r"dropped from (?P<place>\S+): (?P<cause>.*) \(op [^()]*\)")
_LOST = re.compile(r"no longer at (?P<place>\S+) \((?P<cause>.*)\)")
_ORDERED = re.compile(r"move to (?P<place>\S+) ordered by (?P<cause>.*)")


@dataclass(frozen=True, slots=True)
class Told:
    """One line of a story, told `ago_s` seconds ago."""

    ago_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Deed:
    """A copy to a place (`source` and `took` say from where and how long), a drop or an order; its cause."""

    ago_s: float
    place: str
    cause: str
    source: str = ""
    took: str = ""


def outcome(command: Copy | Drop, event: Event) -> str:
    """Return one plain sentence of how a command ended, with its places and its cause."""
    cause = f"{command.reason} (op {command.op})"
    match command, event:
        case Copy(_, _, source, target), Copied(_, nbytes, took_s):
            way, took = f"from {source} to {target}", format_seconds(took_s)
            return f"copied {format_bytes(nbytes)} {way} in {took}: {cause}"
        case Copy(_, _, _, target), CopyFailed(_, code, reason, permanent):
            return f"copy to {target} failed{' for good' if permanent else ''}: {reason} [{code}]; {cause}"
        case _, Dropped():
            return f"dropped from {_place(command)}: {cause}"
        case _, DropRefused(_, leases):
            return f"not dropped from {_place(command)}, {leases} in use: {cause}"
        case _:
            return describe(event)


def _place(command: Copy | Drop) -> Place:
    return command.target if isinstance(command, Copy) else command.place


def brought(story: Iterable[Told], place: str) -> Deed | None:
    """Return the last copy to a place that a story tells of, oldest line first; None if it was lost since."""
    last = None
    for told in story:
        if (found := _COPIED.fullmatch(told.text)) is not None and found["place"] == place:
            last = Deed(told.ago_s, place, found["cause"], found["source"], found["took"])
        elif (found := _gone(told.text)) is not None and found["place"] == place:
            last = None
    return last


def left(story: Iterable[Told]) -> dict[str, Deed]:
    """Return how a story tells that each place was left, if nothing was copied there since."""
    deeds: dict[str, Deed] = {}
    for told in story:
        if (found := _gone(told.text)) is not None:
            deeds[found["place"]] = Deed(told.ago_s, found["place"], found["cause"])
        elif (found := _COPIED.fullmatch(told.text)) is not None:
            deeds.pop(found["place"], None)
    return deeds


def _gone(text: str) -> re.Match[str] | None:
    return _DROPPED.fullmatch(text) or _LOST.fullmatch(text)


def ordered(story: Iterable[Told], place: str) -> Deed | None:
    """Return the last order that moved an item to a place, if a story tells of one."""
    found = [(told, _ORDERED.fullmatch(told.text)) for told in story]
    orders = [Deed(told.ago_s, place, it["cause"]) for told, it in found if it and it["place"] == place]
    return orders[-1] if orders else None


def ago(seconds_ago: float) -> str:
    """Return "2min ago"; what a clock that was set back puts into the future is "0s ago"."""
    return f"{format_seconds(max(seconds_ago, 0.0))} ago"


def brief(cause: str) -> str:
    """Return a cause without the score that it was found by: that is told apart."""
    kept, near, _ = cause.partition("kept near")
    return "kept near in spare memory" if near and not kept else cause
