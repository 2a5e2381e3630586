"""`replay`: a log of asks, or a workload, under our policy and under the well-known ones."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors.cli.call import Json
from actors.cli.options import taking
from actors.cli.screen import Screen
from placement.errors import UserError

if TYPE_CHECKING:
    from placement.replay.stage import Stage
    from placement.replay.tally import Score
    from placement.replay.trace import Trace

app = typer.Typer()

#: what a workload of the literature is played at: it has no engine of its own
SLOTS = (8, 16, 32)
ASKS = 5000


@dataclass(frozen=True, kw_only=True)
class Asks:
    """What is played: a log, or a workload of the literature."""

    trace: Annotated[
        Path | None, typer.Argument(metavar="[TRACE]", help="A log of asks: JSON lines below a header.")
    ] = None
    workload: Annotated[
        str | None,
        typer.Option("--workload", metavar="NAME", help="A workload of the literature instead of a log."),
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same workload.")] = 0
    asks: Annotated[int, typer.Option(min=1, help="How many asks of the workload.")] = ASKS
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the workload as a trace.")] = None

    def made(self, screen: Screen) -> Trace:
        """Return the trace. Raises BadParameter if it is not clear which, UserError for a bad one."""
        if self.trace is not None and self.workload is None and self.save is not None:
            raise typer.BadParameter("it keeps a workload; a trace is a file already", param_hint="--save")
        if self.trace is not None and self.workload is None:
            return _read(self.trace)
        if self.workload is not None and self.trace is None:
            return _generated(self.workload, self.seed, self.asks, self.save, screen)
        raise typer.BadParameter("name a trace, or a workload with --workload", param_hint="TRACE")


@dataclass(frozen=True, kw_only=True)
class Where:
    """What it is played on: the trace's own engine, or that of a file."""

    config: Annotated[
        str | None, typer.Option(metavar="FILE", help="The lab to play it in: its room, homes and policy.")
    ] = None
    what_if: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="The lab said otherwise: node.desk.ram=96GiB; repeatable."),
    ] = None
    slots: Annotated[
        str | None,
        typer.Option(metavar="N,N", help="Seats of the engine; default: the file's, the log's, 8,16,32."),
    ] = None


@app.command()
@taking(Where, "where")
@taking(Asks, "asks")
def replay(
    *,
    asks: Asks,
    where: Where,
    policy: Annotated[
        list[str] | None, typer.Option("--policy", metavar="NAME", help="Only this one; repeatable.")
    ] = None,
    hints: Annotated[
        bool, typer.Option("--hints/--no-hints", help="Whether callers say who speaks next.")
    ] = True,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the scores as a PNG, too.")] = None,
    json: Json = False,
) -> None:
    """Play asks again in virtual time, and say what each policy would have cost."""
    from placement.replay.replay import POLICIES, play

    if where.what_if and where.config is None:
        raise typer.BadParameter("it changes a lab's file; name that with --config", param_hint="--what-if")
    if plot is not None:
        from actors.bench.replay_plot import drawable

        drawable()
    screen = Screen()
    played, stages = _stages(asks.made(screen), where.config, where.what_if or [], where.slots)
    scores: list[Score] = []
    for stage in stages:
        for name in policy or POLICIES:
            began_s = time.perf_counter()
            scores.append(play(played, name, stage, hints=hints))
            screen.tell(f"{name} with {stage.slots} slots: played in {time.perf_counter() - began_s:.1f} s")
    if plot is not None:
        from actors.bench.replay_plot import draw

        draw(scores, f"{played.header.workload}, {len(played.asks)} asks", plot)
        screen.tell(f"drawn in {plot}")
    _show(screen, played, scores, json=json)


def _show(screen: Screen, played: Trace, scores: list[Score], *, json: bool) -> None:
    from placement.replay.table import text

    head = played.header
    if json:
        screen.json("replay", workload=head.workload, seed=head.seed, lasts_s=played.lasts_s, scores=scores)
        return
    seeded = "" if head.seed is None else f", seed {head.seed}"
    told = f"{len(played.asks)} asks of {len(head.items)} roles in {played.lasts_s:.0f} s"
    screen.write(f"{head.workload}{seeded}: {told}")
    screen.write(text(scores))


def _read(path: Path) -> Trace:
    from placement.replay.trace import read

    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            return read(lines, str(path))
    except OSError as error:
        raise UserError("TRC086", f"the trace {path} cannot be read: {error.strerror}") from error


def _generated(name: str, seed: int, asks: int, save: Path | None, screen: Screen) -> Trace:
    from placement.replay.trace import write
    from placement.replay.workloads import generate

    made = generate(name, random.Random(seed), asks, seed)  # noqa: S311 -- seeded dice repeat
    if save is not None:
        try:
            with save.open("w", encoding="utf-8") as file:
                file.writelines(write(made))
        except OSError as error:
            raise UserError("TRC086", f"the trace {save} cannot be written: {error.strerror}") from error
        screen.tell(f"written to {save}")
    return made


def _stages(
    trace: Trace, config: str | None, changes: list[str], slots: str | None
) -> tuple[Trace, list[Stage]]:
    """Return the asks that are played, and a stage for each number of slots."""
    from placement.replay.stage import of_lab, plain
    from placement.replay.trace import LOG

    counts = [] if slots is None else _counts(slots)
    if config is None:
        known = (trace.header.slots,) if trace.header.workload == LOG else SLOTS
        return trace, [plain(trace.header, count) for count in counts or known]
    from actors.muster import limits
    from actors.sources import home_expanded, read_text, resolve_bases
    from placement.config import load
    from placement.replay.what_if import what_if
    from placement.state import Limits

    root = str(home_expanded(config).absolute().parent)
    text = what_if(read_text(config), changes)
    lab = resolve_bases(load(text, os.environ, name=config, root=root))
    rules = limits(lab.policy, Limits().op_s)
    wanted: list[int | None] = [*counts] or [None]
    made = [of_lab(trace, lab, rules, count) for count in wanted]
    return made[0][0], [stage for _, stage in made]


def _counts(slots: str) -> list[int]:
    counts = [int(part) if part.strip().isdecimal() else 0 for part in slots.split(",")]
    if min(counts) < 1:
        raise typer.BadParameter(f"{slots!r} is not numbers such as 8,16,32", param_hint="--slots")
    return counts
