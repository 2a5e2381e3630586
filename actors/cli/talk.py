"""What a lab tells a person: an answer as it comes, its sources and its cost; what an order comes to."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from actors.cli.screen import rate
from placement.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.aio import AioLab
    from actors.answer import Activation, Answer, End, Found
    from actors.cli.screen import Screen
    from actors.listing import Thing
    from actors.warming import Warming


async def talk(
    lab: AioLab, role: str, question: str, options: dict[str, Any], show: Callable[[str], None]
) -> Answer:
    """Ask, and give each piece of text to `show`. Cancelled (Ctrl-C), it stops the decoding first."""
    from actors.answer import Piece

    stream = lab.stream(role, question, **options)
    async with aclosing(stream.events()) as events:
        async for event in events:
            if isinstance(event, Piece):
                show(event.text)
    return stream.answer


def show_sources(found: Found, screen: Screen) -> None:
    """Write what the prompt held, passages and roles, to stdout, and what had to be left out to stderr."""
    sources = (*found.citations, *found.consulted)
    if sources:
        screen.write("")
    for source in sources:
        screen.write(str(source))
    for left_out in found.left_out:
        screen.tell(f"left out: {left_out}", "dim")


def move_line(before: Thing, after: Thing, took_s: float) -> str:
    """Return where an item is at home now, and how long the whole move took; no bytes if it was there."""
    arrived, took = f"{after.name} is at home in {after.home}", format_seconds(took_s)
    if f"{after.home} ready" in before.copies:
        return f"{arrived} after {took}: it was there, and left the other places"
    return f"{arrived}: {format_bytes(after.nbytes)} copied, checked and the old place drained in {took}"


def warm_line(told: Warming, within_s: float) -> str:
    """Return what an order to warm an item comes to."""
    thing = told.thing
    if thing.tier.startswith("VRAM"):
        return f"{thing.name} is in {thing.tier} already"
    return f"{told}; the order stands for {format_seconds(within_s)}; see `tierce story {thing.name}`"


def gone_line(thing: Thing) -> str:
    """Return what left the lab with a role, and what stays."""
    version = f" {thing.version}" if thing.version else ""
    places = ", ".join(copy.rsplit(" ", 1)[0] for copy in thing.copies) or "nowhere"
    return f"role {thing.name}{version} is removed; it was at {places}. Its source stays"


def cost_line(end: End) -> str:
    """Return in one line which weights spoke, from where they came at what cost, and how fast it went."""
    total, first = format_seconds(end.total_s), format_seconds(end.first_token_s)
    spoke = f"{end.tokens} tokens in {total}, the first after {first}"
    return f"{end.version} · {_origin(end.activation)} · {spoke}"


def _origin(activation: Activation | None) -> str:
    if activation is None or not activation.nbytes:
        return "adapter was in VRAM"
    moved = f"{format_bytes(activation.nbytes)} in {format_seconds(activation.copy_s)}"
    pace = rate(activation.nbytes, activation.copy_s)
    ready = format_seconds(activation.total_s)
    return f"adapter came from {activation.source}: {moved}, {pace}, ready after {ready}"
