"""The commands in which roles speak: one is asked, or several sit at a round table."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from actors.cli.call import (
    Address,
    Json,
    MaxTokens,
    MinP,
    Name,
    Penalty,
    Question,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
)
from actors.cli.faults import Exit
from actors.cli.screen import Screen
from actors.cli.talk import cost_line, show_sources, talk
from actors.cli.turns import Board, turns_table

if TYPE_CHECKING:
    from actors.answer import Event

app = typer.Typer()


@app.command()
def ask(  # noqa: PLR0913  (one argument for each option)
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="Who shall answer.")],
    question: Question,
    *,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    seed: Seed = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    penalty: Penalty = None,
    stop: Stop = None,
    lab: Name = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Ask a role: the answer as it is decoded, then its sources. Ctrl-C stops the decoding."""
    screen = Screen()
    words = " ".join(question)
    finer = {"top_p": top_p, "top_k": top_k, "min_p": min_p, "repetition_penalty": penalty}
    settings: dict[str, object] = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    settings |= {name: value for name, value in finer.items() if value is not None}
    if stop:
        settings["stop"] = tuple(stop)
    running = ctx.obj.labs.connect(lab, address)

    def show(text: str) -> None:
        if not json:
            screen.write(text, end="")

    answer = asyncio.run(talk(running.aio, role, words, settings, show))
    if json:
        screen.json("ask", **asdict(answer))
        return
    screen.write("")
    show_sources(answer.found, screen)
    screen.tell(cost_line(answer.end), "dim")


@app.command()
def roundtable(  # noqa: PLR0913  (one argument for each option)
    ctx: typer.Context,
    question: Question,
    *,
    role: Annotated[
        list[str],
        typer.Option("--role", metavar="ROLE", help="Who speaks; repeated, they speak in this order."),
    ],
    rounds: Annotated[int, typer.Option(min=1, help="How often each of them speaks.")] = 1,
    warm_ahead: Annotated[
        bool,
        typer.Option("--warm-ahead/--no-warm-ahead", help="Bring the next adapter up while one speaks."),
    ] = True,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    seed: Seed = None,
    lab: Name = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Let roles speak in turn, each knowing what was said; then what each turn cost. Ctrl-C stops it."""
    screen = Screen()
    words = " ".join(question)
    settings = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    running = ctx.obj.labs.connect(lab, address)
    board = Board(screen)
    spoken = asyncio.run(
        running.aio.roundtable(
            words, role, rounds, warm_ahead, hear=_silent if json else board.hear, **settings
        )
    )
    if json:
        screen.json(
            "roundtable",
            question=words,
            turns=spoken.turns,
            exposed_s=spoken.exposed_s,
            warm_ahead=spoken.warm_ahead,
        )
    else:
        board.close()
        screen.write("")
        screen.show(turns_table(spoken.turns))
    screen.tell(spoken.cost, "bold")
    for why in spoken.unannounced:
        screen.tell(f"not announced: {why}", "yellow")
    failed = [turn for turn in spoken.turns if turn.problem]
    for turn in failed:
        screen.tell(f"error: {turn.role} did not answer: {turn.problem}", "red")
    if failed:
        raise typer.Exit(Exit.PARTIAL)


def _silent(_role: str, _event: Event) -> None:
    """Show nothing of a turn: the JSON object at the end has it all."""
