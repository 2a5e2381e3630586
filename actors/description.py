"""What `describe` tells of one role, shard or version; plain values, no Ray."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from placement.units import format_bytes, format_seconds
from placement.why import lines

if TYPE_CHECKING:
    from actors.journal import Line
    from actors.listing import Thing
    from placement.why import Why


@dataclass(frozen=True, slots=True)
class Description:
    """One item, and why it is where it is.

    `item` and `why` are empty for what has no copy in the lab; `note` then says why not. `activated_by` are
    who may activate a role, of a shard the roles that read it. `actors` are who answers for it, with their
    nodes; `rules` are what its entry says of warming and unloading; `events` are the last lines of its story.
    """

    thing: Thing
    item: str
    activated_by: tuple[str, ...]
    actors: tuple[str, ...]
    rules: tuple[str, ...]
    events: tuple[Line, ...]
    why: Why | None
    note: str = ""

    def parts(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each part's title and its lines, one for each fact."""
        thing = self.thing
        size = f", {format_bytes(thing.nbytes)}" if thing.nbytes else ""
        yield f"{thing.kind} {self.item or thing.name}: {thing.phase}{size}", list(self._facts())
        yield "Events", [str(line) for line in self.events] or ["nothing happened yet"]
        yield "Why here", lines(self.why) if self.why is not None else [self.note]

    def _facts(self) -> Iterator[str]:
        thing, why = self.thing, self.why
        last = "" if thing.last_used_s is None else f", the last {format_seconds(thing.last_used_s)} ago"
        facts = {
            "home": f"{why.home}, by {why.home_by}" if why is not None else thing.home,
            "serves at": why.serves_at if why is not None else "",
            "actors": ", ".join(self.actors),
            "activated by" if thing.kind == "role" else "read by": ", ".join(self.activated_by) or "nobody",
            "its entry": "; ".join(self.rules),
            "asked": f"{_times(thing.hits)}{last}; activated {_times(thing.activations)}",
            "leases": str(thing.leases or "none"),
            "problem": thing.problem,
        }
        yield from (f"  {label:<13} {fact}" for label, fact in facts.items() if fact)

    def __str__(self) -> str:
        return "\n\n".join("\n".join((title, *told)) for title, told in self.parts())


def _times(count: int) -> str:
    return f"{count} time{'' if count == 1 else 's'}"
