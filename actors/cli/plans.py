"""The commands between a file and the world: plan, apply, diff."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors.cli.call import Address, Json
from actors.cli.faults import Exit, report
from actors.cli.plan_file import keep, read_plan
from actors.cli.screen import Screen
from placement.errors import TierceError, WorldError
from placement.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.text import Text

    from placement.preview.plan import Plan

FILE = "cluster.yaml"
#: With --detailed-exitcode: something is to be done, or is other than the file says.
DIFFERENT = 2

app = typer.Typer()

LabFile = Annotated[str, typer.Argument(metavar="[FILE]", help="The lab's file.")]
Forget = Annotated[
    bool, typer.Option("--forget", help="Only the file counts, not what was said and ordered since.")
]
Detailed = Annotated[
    bool,
    typer.Option("--detailed-exitcode", help="Exit with 0 for nothing to do, 1 for an error, 2 for changes."),
]


@app.command()
def plan(
    ctx: typer.Context,
    file: LabFile = FILE,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", dir_okay=False, help="Keep the plan for `tierce apply FILE`."),
    ] = None,
    forget: Forget = False,
    detailed_exitcode: Detailed = False,
    address: Address = None,
    json: Json = False,
) -> None:
    """Show what would be done to make the world like a file: each copy, drop, start and stop."""
    screen = Screen()

    def show() -> bool:
        made: Plan = ctx.obj.labs.plan(file, address, forget=forget)
        if out is not None:
            keep(made, out)
        if json:
            from actors.cli.plan_json import plan_fields

            screen.json("plan", **plan_fields(made))
        else:
            _write_plan(screen, made)
            if out is not None:
                screen.tell(f"kept in {out}; `tierce apply {out}` does exactly that")
        if made.troubles:
            raise _hopeless(made)
        return made.changes_anything

    _exit(show, screen, detailed=detailed_exitcode, json=json)


@app.command()
def diff(
    ctx: typer.Context,
    file: LabFile = FILE,
    *,
    detailed_exitcode: Detailed = False,
    address: Address = None,
    json: Json = False,
) -> None:
    """Show where a running lab is other than its file: what was said since, what is not at home."""
    screen = Screen()

    def show() -> bool:
        drift = ctx.obj.labs.drift(file, address)
        if json:
            screen.json("diff", file=file, drift=drift)
        else:
            from actors.cli.plan_text import drift_lines

            _write(screen, drift_lines(file, drift))
        return bool(drift)

    _exit(show, screen, detailed=detailed_exitcode, json=json)


@app.command()
def apply(
    ctx: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="[FILE]", help="The lab's file, or a plan that was kept by --out.")
    ] = FILE,
    *,
    forget: Forget = False,
    address: Address = None,
    json: Json = False,
) -> None:
    """Make the world like a file: plan, and do it. A kept plan is done exactly, or not at all.

    A lab that does not run comes up; in one that runs, who is not in the plan is not disturbed.
    """
    screen = Screen()
    labs = ctx.obj.labs
    kept = read_plan(Path(file))
    source, forget = (kept["file"], kept["forget"]) if kept else (file, forget)
    made: Plan = labs.plan(source, address, forget=forget)
    if kept and made.mark() != kept["mark"]:
        _write(screen, _differences(kept["does"], made.does()), err=True)
        raise WorldError(
            "TRC049",
            f"the lab has changed since {file} was made",
            f"make another: tierce plan {source} --out {file}",
        )
    if not json:
        _write_plan(screen, made)
    if made.troubles:
        raise _hopeless(made)
    began_s = time.perf_counter()
    with screen.err.status(f"applying {file}"):
        labs.apply(source, address, forget=forget, mark=made.mark(), say=screen.step)
    took_s = time.perf_counter() - began_s
    failed = [thing for thing in labs.connect(made.lab, address).ps().things if thing.problem]
    if json:
        from actors.cli.plan_json import plan_fields

        screen.json("apply", **plan_fields(made) | {"took_s": took_s, "failed": failed})
    else:
        screen.tell(f"lab {made.lab} is as {source} says after {format_seconds(took_s)}", "bold")
    for thing in failed:
        screen.tell(f"error: {thing.kind} {thing.name}: {thing.problem}", "red")
    if failed:
        raise typer.Exit(Exit.PARTIAL)


def _write_plan(screen: Screen, plan: Plan) -> None:
    from actors.cli.plan_text import plan_lines

    _write(screen, plan_lines(plan))


def _hopeless(plan: Plan) -> WorldError:
    first = plan.troubles[0]
    return WorldError("TRC052", f"the plan cannot be applied: {first}", first.hint)


def _differences(before: Iterable[str], after: Iterable[str]) -> list[str]:
    """Return what one plan does and the other does not."""
    old, new = list(before), list(after)
    return [f"  no longer: {line}" for line in old if line not in new] + [
        f"  now also:  {line}" for line in new if line not in old
    ]


def _exit(show: Callable[[], bool], screen: Screen, *, detailed: bool, json: bool) -> None:
    """Run a command that tells whether anything differs; end as --detailed-exitcode says if that is given."""
    if not detailed:
        show()
        return
    try:
        different = show()
    except TierceError as error:
        report(error, screen, json=json)
        raise typer.Exit(Exit.WORLD) from error
    if different:
        raise typer.Exit(DIFFERENT)


def _write(screen: Screen, lines: Iterable[Text | str], *, err: bool = False) -> None:
    for line in lines:
        (screen.err if err else screen.out).print(line, soft_wrap=True)
