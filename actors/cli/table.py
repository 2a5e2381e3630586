"""`ps` as tables: the roles and shards; with --wide every copy, the actors, the room of each place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from actors.cli.screen import plain
from actors.listing import COLUMNS, cells
from placement.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from actors.listing import Listing, Member, Space, Thing

BAR_CELLS = 24
RIGHT = {
    "SIZE", "LEASES", "ACTIVATIONS", "HITS", "RSS", "PID",
    "MB/s", "TIMES", "MEDIAN", "COPYING", "TURN", "WAITED", "TOOK", "SOURCES",
}  # fmt: skip
_TIER_STYLES = {"VRAM": "bold magenta", "RAM": "bold green", "SSD": "bold yellow", "failed": "bold red"}


def listing_tables(listing: Listing, *, wide: bool) -> RenderableType:
    """Return what `ps` shows of a lab."""
    things: list[RenderableType] = [things_table(listing.things)]
    stalled = [
        Text(plain(f"{member.name} on {member.node} {member.doing}"), style="bold red")
        for member in listing.members
        if member.state == "stalled"
    ]
    if stalled:
        things += ["", *stalled]
    if not wide:
        return Group(*things)
    members, spaces = _members(listing.members), _spaces(listing.spaces)
    return Group(*things, "", copies_table(listing.things), "", members, "", spaces)


def things_table(things: Iterable[Thing]) -> Table:
    """Return one row for each role and shard; a home on the node where it is shows its tier alone."""
    rows = []
    for thing in things:
        row: dict[str, str | Text] = dict(zip(COLUMNS, cells(thing), strict=True))
        tier = str(row["TIER"])
        row["NAME"] = Text(plain(thing.name), style="bold")
        row["TIER"] = Text(tier, style=_TIER_STYLES.get(tier.partition("(")[0], ""))
        row["HOME"] = thing.home.removeprefix(f"{thing.node}:")
        rows.append(tuple(row.values()))
    return table(COLUMNS, rows)


def copies_table(things: Iterable[Thing]) -> Table:
    """Return one row for each copy of each role and shard: its place and its phase."""
    rows = [(thing.name, *copy.rsplit(" ", 1)) for thing in things for copy in thing.copies]
    return table(("COPY OF", "PLACE", "PHASE"), rows)


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return a table of plain cells under `columns`; numbers stand to the right, no header word is broken."""
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in columns:
        widest = max(len(word) for word in name.split())
        made.add_column(name, justify="right" if name in RIGHT else "left", overflow="fold", min_width=widest)
    for row in rows:
        made.add_row(*(Text(plain(cell)) if isinstance(cell, str) else cell for cell in row))
    return made


def _members(members: Iterable[Member]) -> Table:
    rows = [
        (
            member.name,
            member.node,
            str(member.pid or "-"),
            format_bytes(member.rss) if member.rss else "-",
            member.state,
            member.doing,
        )
        for member in members
    ]
    return table(("ACTOR", "NODE", "PID", "RSS", "STATE", "DOING"), rows)


def _spaces(spaces: Iterable[Space]) -> Table:
    rows = [(space.place, _bar(space), _sum(space), space.seats or "-", space.memory) for space in spaces]
    return table(("PLACE", "ROOM", "BASE + KV / ITEMS / FREE OF BUDGET", "SEATS", "MEMORY"), rows)


def _sum(space: Space) -> str:
    free = max(0, space.budget - space.fixed - space.used)
    parts = " / ".join(format_bytes(nbytes) for nbytes in (space.fixed, space.used, free))
    return f"{parts} of {format_bytes(space.budget)}"


def _bar(space: Space) -> Text:
    """Return the budget as a bar: base and KV cache, items, free."""
    fixed, used = (_share(nbytes, space.budget) for nbytes in (space.fixed, space.used))
    used = min(used, BAR_CELLS - fixed)
    return Text.assemble(
        ("█" * fixed, "magenta"), ("▓" * used, "green"), ("░" * (BAR_CELLS - fixed - used), "dim")
    )


def _share(nbytes: int, budget: int) -> int:
    """Return how many cells of a bar `nbytes` take; what is not nothing takes one at least."""
    if not nbytes:
        return 0
    return min(BAR_CELLS, max(1, round(BAR_CELLS * nbytes / max(budget, 1))))
