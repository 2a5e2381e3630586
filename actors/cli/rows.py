"""The commands about what is where: ps, describe, story, and the orders that move one item."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from actors.cli.call import Address, Item, Json, Name, show_listing, show_thing
from actors.cli.screen import Screen
from actors.cli.talk import move_line, warm_line
from placement.errors import UserError
from placement.tiers import Tier
from placement.units import parse_seconds

if TYPE_CHECKING:
    from actors.description import Description
    from actors.listing import Listing

app = typer.Typer()


@app.command()
def ps(
    ctx: typer.Context,
    *,
    wide: Annotated[
        bool, typer.Option("--wide", help="With copies, actors and the room of each place.")
    ] = False,
    lab: Name = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Say where everything is, and what it did; of what is not as it should be, why."""
    listing: Listing = ctx.obj.labs.connect(lab, address).ps()
    screen = Screen()
    show_listing(screen, listing, json=json, wide=wide)
    for thing in listing.things:
        if thing.problem and not json:
            screen.write(f"{thing.kind} {thing.name}: {thing.problem}")


@app.command()
def describe(
    ctx: typer.Context, item: Item, *, lab: Name = None, address: Address = None, json: Json = False
) -> None:
    """Say all of a role, a shard or a version: who may ask it, what happened, and why it is where it is."""
    told: Description = ctx.obj.labs.connect(lab, address).describe(item)
    screen = Screen()
    if json:
        screen.json("describe", **asdict(told))
        return
    for number, (title, lines) in enumerate(told.parts()):
        screen.write("\n" * bool(number), end="")
        screen.write(title, "bold")
        for line in lines:
            screen.write(line)


@app.command()
def story(
    ctx: typer.Context, item: Item, *, lab: Name = None, address: Address = None, json: Json = False
) -> None:
    """Tell what happened to a role or shard, and why; the newest is last."""
    lines = ctx.obj.labs.connect(lab, address).story(item)
    screen = Screen()
    if json:
        screen.json("story", item=item, lines=lines)
        return
    for line in lines:
        screen.write(str(line))


@app.command()
def move(
    ctx: typer.Context,
    item: Item,
    *,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="TIER", help="VRAM, RAM, SSD (or disk), network; default: as now."),
    ] = None,
    node: Annotated[str | None, typer.Option(help="The machine; default: where it is at home.")] = None,
    lab: Name = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Give a role or shard a new home, in another tier or on another machine, and wait until it is there."""
    if to is None and node is None:
        raise typer.BadParameter("where to? give a tier, a machine, or both", param_hint="--to / --node")
    try:
        tier = None if to is None else Tier.parse(to)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--to") from error
    running = ctx.obj.labs.connect(lab, address)
    before = running.ps()
    began_s = time.perf_counter()
    thing = running.move(item, tier or _present_tier(before, item), node)
    screen = Screen()
    screen.tell(move_line(before.thing(thing.name), thing, time.perf_counter() - began_s), "dim")
    show_thing(screen, "move", thing, json=json)


@app.command()
def warm(
    ctx: typer.Context,
    item: Item,
    *,
    within: Annotated[
        str, typer.Option(metavar="TIME", help="How long the order holds, such as 10s.")
    ] = "30s",
    lab: Name = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Order a role or shard up to where it serves, ahead of need; only what is surplus makes room for it."""
    within_s = _seconds(within, "--within")
    told = ctx.obj.labs.connect(lab, address).warm(item, within_s)
    screen = Screen()
    screen.tell(warm_line(told, within_s), "dim")
    if json:
        later = {"eta_s": told.eta_s, "evicts": told.evicts, "waits_for": told.waits_for}
        screen.json("warm", item=told.thing, **later)
    else:
        show_thing(screen, "warm", told.thing, json=json)


@app.command()
def cool(
    ctx: typer.Context, item: Item, *, lab: Name = None, address: Address = None, json: Json = False
) -> None:
    """Take an order to warm a role or shard back; nothing keeps it where it serves for that any more."""
    show_thing(Screen(), "cool", ctx.obj.labs.connect(lab, address).cool(item), json=json)


@app.command()
def unload(
    ctx: typer.Context, item: Item, *, lab: Name = None, address: Address = None, json: Json = False
) -> None:
    """Send a role or shard where it rests, as soon as nobody uses it."""
    show_thing(Screen(), "unload", ctx.obj.labs.connect(lab, address).unload(item), json=json)


@app.command()
def pin(
    ctx: typer.Context, item: Item, *, lab: Name = None, address: Address = None, json: Json = False
) -> None:
    """Never let a role or shard leave its home."""
    show_thing(Screen(), "pin", ctx.obj.labs.connect(lab, address).pin(item), json=json)


@app.command()
def unpin(
    ctx: typer.Context, item: Item, *, lab: Name = None, address: Address = None, json: Json = False
) -> None:
    """Let a role or shard leave its home again."""
    show_thing(Screen(), "unpin", ctx.obj.labs.connect(lab, address).unpin(item), json=json)


def _seconds(text: str, option: str) -> float:
    try:
        seconds = parse_seconds(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
    if not seconds:
        raise typer.BadParameter("must be more than 0", param_hint=option)
    return seconds


def _present_tier(listing: Listing, item: str) -> Tier:
    """Return the tier where an item is at home now. Raises UserError TRC001 for an item that has no home."""
    for thing in listing.things:
        if item in (thing.name, f"{thing.name}@{thing.version}") and ":" in thing.home:
            return Tier.parse(thing.home.partition(":")[2].partition("(")[0])
    known = ", ".join(thing.name for thing in listing.things if ":" in thing.home)
    raise UserError("TRC001", f"the lab has no role or shard {item!r} with a home", f"it has: {known}")
