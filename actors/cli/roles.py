"""The commands that change who is in a running lab, and the one that writes it all down as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors.cli.call import Address, Json, Name, RoleName, show_thing
from actors.cli.faults import Exit
from actors.cli.options import RoleOptions, taking
from actors.cli.screen import Screen
from actors.cli.talk import gone_line

if TYPE_CHECKING:
    from actors.listing import Thing

app = typer.Typer()


@app.command()
@taking(RoleOptions, "of_role")
def add_role(
    ctx: typer.Context,
    name: RoleName,
    *,
    of_role: RoleOptions,
    lab: Name = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Add a role to a running lab, as if its file said so; restarts do not lose it."""
    from actors.cli.entry import new

    entry = new(of_role.said())
    screen = Screen()
    running = ctx.obj.labs.connect(lab, address)
    with screen.err.status(f"adding {name}"):
        thing = running.add_role(name, **entry)
    _show_served(screen, "add-role", thing, json=json)


@app.command()
@taking(RoleOptions, "of_role")
def update_role(
    ctx: typer.Context,
    name: RoleName,
    *,
    of_role: RoleOptions,
    unset: Annotated[
        list[str] | None,
        typer.Option("--unset", metavar="KEY", help="Take a field out: persona, unload.to; may be repeated."),
    ] = None,
    lab: Name = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Change a role of a running lab; what is not named stays as it is, answers in flight included."""
    from actors.cli.entry import add, changed, entry_in, has_parts, unsaid

    said = of_role.said()
    for path in unsaid(unset or ()):
        add(said, path, None, "--unset")
    if not said:
        raise typer.BadParameter("what shall change? name a field", param_hint="--set")
    screen = Screen()
    running = ctx.obj.labs.connect(lab, address)
    present = entry_in(running.export(), name) if has_parts(said) else {}
    with screen.err.status(f"changing {name}"):
        thing = running.update_role(name, **changed(said, present))
    _show_served(screen, "update-role", thing, json=json)


@app.command()
def update(
    ctx: typer.Context, name: RoleName, *, lab: Name = None, address: Address = None, json: Json = False
) -> None:
    """Read a role's adapter again; a new version is loaded beside the old one and takes its place.

    Answers in flight end on the old one. If the new one cannot serve, the old one serves on.
    """
    running = ctx.obj.labs.connect(lab, address)
    screen = Screen()
    with screen.err.status(f"reading the adapter of {name}"):
        told = running.update(name)
    screen.tell(str(told), "dim")
    if json:
        screen.json("update", item=told.thing, before=told.before, after=told.after, source=told.source)
    else:
        show_thing(screen, "update", told.thing, json=json)
    _end_if_failed(screen, told.thing)


@app.command()
def remove_role(
    ctx: typer.Context, name: RoleName, *, lab: Name = None, address: Address = None, json: Json = False
) -> None:
    """Take a role out of a running lab once its answers in flight have ended; its source stays."""
    running = ctx.obj.labs.connect(lab, address)
    screen = Screen()
    with screen.err.status(f"removing {name}"):
        thing = running.remove_role(name)
    if json:
        screen.json("remove-role", item=thing)
    else:
        screen.write(gone_line(thing))


@app.command()
def export(
    ctx: typer.Context,
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", dir_okay=False, help="Where to; default: stdout."),
    ] = None,
    lab: Name = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Write the running lab as one file: its own, and all that was said since on the line and in code."""
    text = ctx.obj.labs.connect(lab, address).export()
    screen = Screen()
    if output is not None:
        _write(output, text)
    if json:
        screen.json("export", file=None if output is None else str(output), text=text)
    elif output is None:
        screen.write(text, end="")
    else:
        screen.tell(f"{output}: {len(text.splitlines())} lines; `tierce up {output}` brings the same lab up")


def _write(file: Path, text: str) -> None:
    """Put `text` in `file`, whole or not at all. Raises BadParameter where that is not possible."""
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="--output") from error


def _show_served(screen: Screen, verb: str, thing: Thing, *, json: bool) -> None:
    """Show a role that was changed; exit 6 if it cannot serve, for the lab runs on without it."""
    show_thing(screen, verb, thing, json=json)
    _end_if_failed(screen, thing)


def _end_if_failed(screen: Screen, thing: Thing) -> None:
    if thing.problem:
        screen.tell(f"error: {thing.kind} {thing.name}: {thing.problem}", "red")
        raise typer.Exit(Exit.PARTIAL)
