"""One call of the command line: what every command gets, the options that many share, how rows are shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from actors.cli.labs import Labs
from actors.cli.table import copies_table, listing_tables, things_table

if TYPE_CHECKING:
    from actors.cli.screen import Screen
    from actors.listing import Listing, Thing


@dataclass
class Call:
    """One call of the command line: its labs, and how an error is told (as JSON, or where it comes from)."""

    labs: Labs
    debug: bool = False
    json: bool = False


def _json(ctx: typer.Context, wanted: bool) -> bool:  # noqa: FBT001  (typer's callback)
    ctx.obj.json = wanted
    return wanted


Item = Annotated[str, typer.Argument(metavar="ITEM", help="A role or a shard.")]
RoleName = Annotated[str, typer.Argument(metavar="NAME", help="The role.")]
Name = Annotated[str | None, typer.Option("--lab", help="The lab; may be left out where one runs.")]
Address = Annotated[
    str | None, typer.Option(help="Ray's address; default: RAY_ADDRESS, or what `up` started.")
]
Json = Annotated[
    bool, typer.Option("--json", callback=_json, help="One JSON object on stdout, an error too.")
]
Temperature = Annotated[float | None, typer.Option(min=0, max=2, help="0: the likeliest tokens.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Most tokens of the answer.")]
Seed = Annotated[int | None, typer.Option(min=0, help="The same seed, the same answer.")]
TopP = Annotated[float | None, typer.Option(max=1, help="Only the likeliest, of this share in all.")]
TopK = Annotated[int | None, typer.Option(min=0, help="Only so many of the likeliest tokens; 0: all.")]
MinP = Annotated[
    float | None, typer.Option(min=0, max=1, help="Only tokens this share as likely as the likeliest.")
]
Penalty = Annotated[
    float | None, typer.Option("--repetition-penalty", help="Over 1: what was said is less likely.")
]
Stop = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="A text that ends the answer; may be repeated.")
]
Question = Annotated[
    list[str],
    typer.Argument(
        metavar="QUESTION",
        help="The question; its words need no quotes. If one begins with a dash, put -- first.",
    ),
]


def show_listing(screen: Screen, listing: Listing, *, json: bool, wide: bool) -> None:
    """Write the rows of a whole lab."""
    if json:
        screen.json("ps", **asdict(listing))
    else:
        screen.show(listing_tables(listing, wide=wide))


def show_thing(screen: Screen, verb: str, thing: Thing, *, json: bool) -> None:
    """Write the row of one item and its copies; as JSON under the schema of `verb`."""
    if json:
        screen.json(verb, item=thing)
    else:
        screen.show(things_table([thing]), "", copies_table([thing]))
