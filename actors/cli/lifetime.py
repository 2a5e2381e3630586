"""The commands of a lab's life: check its file, bring it up, take it down; and the demo of all three."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors.cli.call import Address, Json, Name, show_listing
from actors.cli.faults import Exit
from actors.cli.options import RoleOptions, taking
from actors.cli.screen import Screen
from placement.units import format_seconds

if TYPE_CHECKING:
    from actors.listing import Listing

FILE = "cluster.yaml"

app = typer.Typer()


@app.command()
def check(
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="The lab's file.")] = FILE,
    *,
    files: Annotated[bool, typer.Option("--files", help="Look at the files that it names, too.")] = False,
    json: Json = False,
) -> None:
    """Show everything that is wrong with a file, at once."""
    from actors.cli.check import check_file, render

    problems = check_file(file, files=files)
    screen = Screen()
    wrong = any(problem.severity == "error" for problem in problems)
    if json:
        screen.json("check", file=file, ok=not wrong, problems=problems)
    else:
        screen.write(render(problems, file))
    if wrong:
        raise typer.Exit(Exit.USER)


@app.command()
@taking(RoleOptions, "of_role")
def up(
    ctx: typer.Context,
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help=f"The lab's file; default: {FILE}.")
    ] = None,
    *,
    role: Annotated[
        str | None,
        typer.Option(
            "--role",
            metavar="NAME",
            help="A role more, told by the options below; with no file here, the lab is this role alone.",
        ),
    ] = None,
    of_role: RoleOptions,
    address: Address = None,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="With Ray's dashboard and jobs.")] = False,
    json: Json = False,
) -> None:
    """Bring up the lab of a file; on a Ray of its own, unless an address is given."""
    from actors.cli.entry import new

    said = of_role.said()
    if said and role is None:
        raise typer.BadParameter(
            f"{'.'.join(next(iter(said)))} says something of a role; which?", param_hint="--role"
        )
    more = None if role is None else (role, new(said))
    source = file or (FILE if more is None or Path(FILE).exists() else None)
    screen = Screen()
    began_s = time.perf_counter()
    with screen.err.status(f"bringing up {source or role}"):
        lab = ctx.obj.labs.up(source, address=address, dashboard=dashboard, say=screen.step, role=more)
    listing: Listing = lab.ps()
    screen.tell(f"lab {lab.name} is up after {format_seconds(time.perf_counter() - began_s)}", "bold")
    show_listing(screen, listing, json=json, wide=False)
    failed = [thing for thing in listing.things if thing.problem]
    for thing in failed:
        screen.tell(f"error: {thing.kind} {thing.name}: {thing.problem}", "red")
    if failed:
        raise typer.Exit(Exit.PARTIAL)


@app.command()
def down(
    ctx: typer.Context,
    *,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Forget what was said on the line and in code: only the file counts."),
    ] = False,
    lab: Name = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Stop a lab: exactly what `up` started. Its SSD tier and its story stay, and what was said of roles."""
    lowered = ctx.obj.labs.down(lab, address, forget=forget)
    screen = Screen()
    if json:
        screen.json("down", lab=lowered)
        return
    ray = f"Ray {lowered.head_pid} stopped too" if lowered.head_pid else "Ray runs on"
    screen.write(f"lab {lowered.lab} is down: {lowered.members} actors ended; {ray}")


@app.command()
def demo(
    ctx: typer.Context,
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab up, and its files in place.")] = False,
) -> None:
    """See it all in two minutes: a lab of three roles, answers with sources, a live move, what it cost."""
    from actors.cli.demo import show

    raise typer.Exit(show(ctx.obj.labs, keep=keep))
