"""`bench`: what Tierce does beside what others do, measured in one run."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors.cli.call import Json
from actors.cli.screen import Screen
from placement.errors import UserError

if TYPE_CHECKING:
    from actors.bench.plan import Plan

app = typer.Typer()


class Bench(StrEnum):
    """What can be measured; each is a module of actors.bench."""

    ACTIVATION = "activation"
    DECODE = "decode"
    CHURN = "churn"
    PREFIX = "prefix"
    DETERMINISM = "determinism"
    GPU = "gpu"
    ARCHITECTURES = "architectures"
    HANDLE = "handle"


class ShapeName(StrEnum):
    """S: 12 layers of 512, fp32. M: the geometry of Qwen3-0.6B, bf16."""

    S = "S"
    M = "M"


@app.command()
def bench(  # noqa: PLR0913 -- each is an option of the command
    name: Annotated[Bench, typer.Argument(metavar="NAME", help=f"One of {', '.join(Bench)}.")],
    *,
    shape: Annotated[
        ShapeName, typer.Option(help="The model: 12 x 512 fp32, or Qwen3-0.6B's bf16.")
    ] = ShapeName.M,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds, each of every case once.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="torch's threads.")] = 1,
    cache: Annotated[
        Path | None, typer.Option(help="Where made models lie; default: tierce-bench in the user's cache.")
    ] = None,
    part: Annotated[
        list[str] | None, typer.Option(help="Only this part of the bench; may be repeated.")
    ] = None,
    peer: Annotated[
        str | None, typer.Option(metavar="URL", help="A server that speaks OpenAI's protocol, beside ours.")
    ] = None,
    peer_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The peer's name of the base.")
    ] = None,
    peer_adapter: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="The peer's name of an adapter; may be repeated.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A tiny model and few steps: does it run?")] = False,
    json: Json = False,
) -> None:
    """Measure Tierce beside PEFT, transformers, plain copies and, if told, another server."""
    from actors.bench.plan import Peer, Plan
    from actors.bench.shapes import SHAPES, T, default_cache

    if (peer is None) != (peer_model is None):
        raise UserError("TRC073", "--peer and --peer-model belong together")
    screen = Screen()
    plan = Plan(
        shape=T if quick else SHAPES[shape],
        repeats=2 if quick else repeats,
        threads=threads,
        cache=cache or default_cache(),
        quick=quick,
        parts=tuple(part or ()),
        tell=screen.tell,
        peer=None
        if peer is None or peer_model is None
        else Peer(peer, peer_model, tuple(peer_adapter or ())),
    )
    _measure(name, plan, screen, json=json)


def _measure(name: Bench, plan: Plan, screen: Screen, *, json: bool) -> None:
    """Run a bench and show what it found. Raises UserError TRC073 for a part that it does not have."""
    import torch

    from actors.bench.sheet import as_json, machine, show

    module = import_module(f"actors.bench.{name}")
    unknown = set(plan.parts) - set(module.PARTS)
    if unknown:
        told = f"bench {name} has no part {', '.join(sorted(unknown))}"
        raise UserError("TRC073", told, f"it has {', '.join(module.PARTS)}")
    torch.set_num_threads(plan.threads)
    sheets = module.run(plan)
    measured_on = machine(plan.threads)
    if json:
        screen.json("bench", bench=name, machine=measured_on, quick=plan.quick, sheets=as_json(sheets))
        return
    screen.write(measured_on)
    for sheet in sheets:
        show(sheet, screen)
