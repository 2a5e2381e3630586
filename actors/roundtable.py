"""A round table: roles speak in turn, each hears what was said before, and the next one is announced."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from actors.rag.prompt import Citation, Consulted, Said
from placement.errors import TierceError, UserError, WorldError
from placement.units import format_seconds

if TYPE_CHECKING:
    from actors.aio import AioLab
    from actors.answer import Answer, Event

#: How long an announcement stands if the speaker before takes longer.
AHEAD_S = 120.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What one role said in one round.

    `tier` is where its adapter came from: "VRAM" if it was there already. `exposed_s` is the part of
    `total_s` that the turn waited for it. `problem` says why a role did not answer, and is empty otherwise.
    """

    round: int
    role: str
    text: str
    citations: tuple[Citation, ...]
    consulted: tuple[Consulted, ...]
    left_out: tuple[str, ...]
    version: str
    tier: str
    exposed_s: float
    total_s: float
    problem: str = ""

    @property
    def sources(self) -> tuple[Citation | Consulted, ...]:
        return (*self.citations, *self.consulted)

    @property
    def cost(self) -> str:
        """Say in a few words which weights spoke, where they came from and what was waited for them."""
        waited = f"adapter from {self.tier}, {format_seconds(self.exposed_s)} waited for it"
        return f"{self.version} · {waited} · {format_seconds(self.total_s)}"

    def __str__(self) -> str:
        if self.problem:
            return f"{self.role}: did not answer: {self.problem}"
        sources = "".join(f"\n  {source}" for source in self.sources)
        return f"{self.role}: {self.text}{sources}\n  ({self.cost})"


@dataclass(frozen=True, slots=True)
class RoundTable:
    """All turns in the order in which they were spoken.

    `unannounced` says for each announcement that could not be made why not.
    """

    question: str
    turns: tuple[Turn, ...]
    warm_ahead: bool
    unannounced: tuple[str, ...] = ()

    @property
    def exposed_s(self) -> float:
        """Seconds that turns waited for adapters, all together."""
        return sum(turn.exposed_s for turn in self.turns)

    @property
    def total_s(self) -> float:
        return sum(turn.total_s for turn in self.turns)

    @property
    def cost(self) -> str:
        ahead = "next speaker announced" if self.warm_ahead else "nobody announced"
        waited, total = format_seconds(self.exposed_s), format_seconds(self.total_s)
        return f"{len(self.turns)} turns in {total}, {waited} of it waiting for adapters; {ahead}"

    def __str__(self) -> str:
        notes = (f"not announced: {why}" for why in self.unannounced)
        return "\n\n".join((*map(str, self.turns), "\n".join((self.cost, *notes))))

    def _repr_html_(self) -> str:
        head = "".join(
            f"<th style='text-align:left'>{name}</th>"
            for name in ("ROUND", "ROLE", "SAID", "SOURCES", "FROM", "WAITED", "IN ALL")
        )
        rows = "".join(map(_row, self.turns))
        notes = "".join(f"<div>not announced: {escape(why)}</div>" for why in self.unannounced)
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
            f"<small>{escape(self.cost)}</small>{notes}"
        )


def nobody(_role: str, _event: Event) -> None:
    """Hear a turn and do nothing."""


async def hold(
    lab: AioLab,
    question: str,
    roles: Sequence[str],
    rounds: int,
    options: dict[str, Any],
    *,
    hear: Callable[[str, Event], None],
    warm_ahead: bool,
) -> RoundTable:
    """Have the roles speak; the contract is that of `AioLab.roundtable`."""
    if not roles or isinstance(roles, str) or rounds < 1:
        raise UserError(
            "TRC019",
            f"a round table needs roles and rounds; it got {roles!r} and {rounds}",
            'as in roundtable("Why?", ["philosopher", "coder"], rounds=2)',
        )
    order = [(number, role) for number in range(1, rounds + 1) for role in roles]
    turns: list[Turn] = []
    unannounced: list[str] = []
    for (number, role), (_, following) in zip(order, [*order[1:], (0, "")], strict=True):
        if warm_ahead and following and following != role:
            try:
                await lab.warm(following, AHEAD_S, cause="next to speak at a round table")
            except WorldError as error:
                unannounced.append(f"{following}: {error}")
        said = tuple(Said(turn.role, turn.text) for turn in turns if not turn.problem)
        turns.append(await _speak(lab, number, role, question, options | {"said": said}, hear))
    return RoundTable(question, tuple(turns), warm_ahead, tuple(unannounced))


async def _speak(
    lab: AioLab,
    number: int,
    role: str,
    question: str,
    options: dict[str, Any],
    hear: Callable[[str, Event], None],
) -> Turn:
    began_s = time.perf_counter()
    stream = lab.stream(role, question, **options)
    try:
        async with aclosing(stream.events()) as events:
            async for event in events:
                hear(role, event)
    except UserError:
        raise
    except TierceError as error:
        took_s = time.perf_counter() - began_s
        return Turn(number, role, "", (), (), (), "", "", 0.0, took_s, problem=str(error))
    return _turn(number, role, stream.answer, time.perf_counter() - began_s)


def _turn(number: int, role: str, answer: Answer, total_s: float) -> Turn:
    activation = answer.end.activation
    return Turn(
        round=number,
        role=role,
        text=answer.text,
        citations=answer.citations,
        consulted=answer.consulted,
        left_out=answer.left_out,
        version=answer.version,
        tier=activation.source if activation else "VRAM",
        exposed_s=activation.total_s if activation else 0.0,
        total_s=total_s,
    )


def _row(turn: Turn) -> str:
    sources = "<br>".join(escape(str(source)) for source in turn.sources)
    cells = (
        str(turn.round),
        escape(turn.role),
        escape(turn.text or f"did not answer: {turn.problem}"),
        sources,
        escape(turn.tier),
        format_seconds(turn.exposed_s),
        format_seconds(turn.total_s),
    )
    return "<tr>" + "".join(f"<td style='text-align:left'>{cell}</td>" for cell in cells) + "</tr>"
