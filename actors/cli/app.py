"""The command line: one function for each verb. Data goes to stdout, progress and errors to stderr."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from actors.cli.faults import MEANINGS, Exit, exit_code, report, unforeseen
from actors.cli.labs import Labs
from actors.cli.screen import Screen
from actors.cli.table import copies_table, listing_tables, things_table
from actors.cli.talk import cost_line, move_line, show_sources, story_line, talk
from placement.errors import TierceError
from placement.tiers import Tier
from placement.units import format_seconds

if TYPE_CHECKING:
    from actors.listing import Listing, Thing

_EXITS = "\n\n".join(f"{code.value}: {meaning}" for code, meaning in MEANINGS.items())

app = typer.Typer(
    help="One file says where each LoRA role and each RAG shard lives; a lab on Ray keeps it so.",
    epilog=f"Exit codes:\n\n{_EXITS}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

File = Annotated[str, typer.Argument(metavar="[FILE]", help="The lab's file.")]
Item = Annotated[str, typer.Argument(metavar="ITEM", help="A role or a shard.")]
Name = Annotated[str | None, typer.Option("--lab", help="The lab; may be left out where one runs.")]
Address = Annotated[
    str | None, typer.Option(help="Ray's address; default: RAY_ADDRESS, or what `up` started.")
]


@dataclass
class Call:
    """One call of the command line: its labs, and how an error is told (as JSON, or where it comes from)."""

    labs: Labs
    debug: bool = False
    json: bool = False


def _json(ctx: typer.Context, wanted: bool) -> bool:  # noqa: FBT001  (typer's callback)
    ctx.obj.json = wanted
    return wanted


Json = Annotated[
    bool, typer.Option("--json", callback=_json, help="One JSON object on stdout, an error too.")
]


def run(arguments: list[str] | None = None, labs: Labs | None = None) -> NoReturn:
    """Run one command and exit with its code; `arguments` default to the process's own.

    The outermost loop of the process: an error ends here as one line; with --debug, as a traceback.
    """
    call = Call(labs or Labs())
    try:
        app(arguments, prog_name="tierce", obj=call)
    except Exception as error:
        if call.debug:
            raise
        known = error if isinstance(error, TierceError) else unforeseen(error)
        report(known, Screen(), json=call.json)
        raise SystemExit(exit_code(known)) from error
    raise SystemExit(Exit.DONE)


def _version(wanted: bool) -> None:  # noqa: FBT001  (typer's callback)
    if wanted:
        from tierce import __version__

        typer.echo(f"tierce {__version__}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,  # noqa: ARG001
) -> None:
    """Set what all commands share."""
    ctx.obj.debug = debug


@app.command()
def check(
    file: File = "cluster.yaml",
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
def up(
    ctx: typer.Context,
    file: File = "cluster.yaml",
    *,
    address: Address = None,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="With Ray's dashboard and jobs.")] = False,
    json: Json = False,
) -> None:
    """Bring up the lab of a file; on a Ray of its own, unless an address is given."""
    screen = Screen()
    began_s = time.perf_counter()
    with screen.err.status(f"bringing up {file}"):
        lab = ctx.obj.labs.up(file, address=address, dashboard=dashboard, say=screen.step)
    listing = lab.ps()
    screen.tell(f"lab {lab.name} is up after {format_seconds(time.perf_counter() - began_s)}", "bold")
    _show_listing(screen, listing, json=json, wide=False)
    failed = [thing for thing in listing.things if thing.problem]
    for thing in failed:
        screen.tell(f"error: {thing.kind} {thing.name}: {thing.problem}", "red")
    if failed:
        raise typer.Exit(Exit.PARTIAL)


@app.command()
def down(ctx: typer.Context, *, lab: Name = None, address: Address = None, json: Json = False) -> None:
    """Stop a lab: exactly what `up` started. Its SSD tier and its story stay."""
    lowered = ctx.obj.labs.down(lab, address)
    screen = Screen()
    if json:
        screen.json("down", lab=lowered)
        return
    ray = f"Ray {lowered.head_pid} stopped too" if lowered.head_pid else "Ray runs on"
    screen.write(f"lab {lowered.lab} is down: {lowered.members} actors ended; {ray}")


@app.command()
def ask(  # noqa: PLR0913  (one argument for each option)
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="Who shall answer.")],
    question: Annotated[
        list[str],
        typer.Argument(
            metavar="QUESTION",
            help="The question; its words need no quotes. If one begins with a dash, put -- first.",
        ),
    ],
    *,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0: the likeliest tokens.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of the answer.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed, the same answer.")] = None,
    lab: Name = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Ask a role: the answer as it is decoded, then its sources. Ctrl-C stops the decoding."""
    screen = Screen()
    words = " ".join(question)
    settings = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    running = ctx.obj.labs.connect(lab, address)

    def show(text: str) -> None:
        if not json:
            screen.write(text, end="")

    answer = asyncio.run(talk(running.aio, role, words, settings, show))
    if json:
        screen.json("ask", **asdict(answer))
        return
    screen.write("")
    show_sources(answer, screen)
    screen.tell(cost_line(answer.end), "dim")


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
    """Say where everything is, and what it did."""
    _show_listing(Screen(), ctx.obj.labs.connect(lab, address).ps(), json=json, wide=wide)


@app.command()
def move(
    ctx: typer.Context,
    item: Item,
    *,
    to: Annotated[str, typer.Option("--to", metavar="TIER", help="VRAM, RAM, SSD (or disk), network.")],
    node: Annotated[str | None, typer.Option(help="The machine; default: where it is at home.")] = None,
    lab: Name = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Give a role or shard a new home, and wait until it is there."""
    try:
        tier = Tier.parse(to)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--to") from error
    running = ctx.obj.labs.connect(lab, address)
    before = running.ps()
    began_s = time.perf_counter()
    thing = running.move(item, tier, node)
    screen = Screen()
    screen.tell(move_line(before.thing(thing.name), thing, time.perf_counter() - began_s), "dim")
    _show_thing(screen, "move", thing, json=json)


@app.command()
def pin(
    ctx: typer.Context, item: Item, *, lab: Name = None, address: Address = None, json: Json = False
) -> None:
    """Never let a role or shard leave its home."""
    _show_thing(Screen(), "pin", ctx.obj.labs.connect(lab, address).pin(item), json=json)


@app.command()
def unpin(
    ctx: typer.Context, item: Item, *, lab: Name = None, address: Address = None, json: Json = False
) -> None:
    """Let a role or shard leave its home again."""
    _show_thing(Screen(), "unpin", ctx.obj.labs.connect(lab, address).unpin(item), json=json)


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
        screen.write(story_line(line))


@app.command()
def demo(
    ctx: typer.Context,
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab up, and its files in place.")] = False,
) -> None:
    """See it all in two minutes: a lab of three roles, answers with sources, a live move, what it cost."""
    from actors.cli.demo import show

    raise typer.Exit(show(ctx.obj.labs, keep=keep))


def _show_listing(screen: Screen, listing: Listing, *, json: bool, wide: bool) -> None:
    if json:
        screen.json("ps", **asdict(listing))
    else:
        screen.show(listing_tables(listing, wide=wide))


def _show_thing(screen: Screen, verb: str, thing: Thing, *, json: bool) -> None:
    if json:
        screen.json(verb, item=thing)
    else:
        screen.show(things_table([thing]), "", copies_table([thing]))
