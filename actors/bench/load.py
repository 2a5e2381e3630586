"""Closed loops of callers on our engine and on any server that speaks OpenAI's protocol, at the same load."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import httpx

from actors.bench import rig, streams
from actors.bench.plan import sizes
from actors.bench.shapes import prompt, text_of
from actors.bench.sheet import Sheet, at_least
from actors.bench.spread import Spread, interleaved, over
from placement.errors import WorldError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from actors.bench.plan import Peer, Plan
    from actors.bench.shapes import Made
    from actors.lm.decoder import Decoder

ROLES = 8
PEER_S = 600.0


def run(plan: Plan, made: Made) -> list[Sheet]:
    """Measure tokens/s of 1, 8 and 16 callers, of the base and of all roles; of a peer too, if told."""
    shape, setting = made.shape, plan.setting(ROLES)
    decoder = rig.load_decoder(made.base, setting)
    for at, path in enumerate(made.adapters[:ROLES]):
        decoder.attach(f"role{at}", rig.image_of(path, made.base, setting))
    roles = [f"role{at}" for at in range(ROLES)]
    cases: dict[str, Callable[[], float]] = {}
    for callers in sizes(plan, (1, 8, 16), (1, 4)):
        for named, items in (("base", [None]), (f"{ROLES} roles", roles)):
            cases[f"ours, {named}, {callers} callers"] = _ours(decoder, made, callers, items)
        if plan.peer is not None:
            for named, models in _models(plan.peer).items():
                cases[f"peer, {named}, {callers} callers"] = _theirs(plan.peer.url, made, callers, models)
    plan.tell(f"closed loops: {len(cases)} cases, {plan.repeats} rounds")
    try:
        found = interleaved(cases, plan.repeats)
    finally:
        decoder.stop()
    sheet = Sheet(
        f"decode: tokens/s of closed loops, {shape.prompt}+{shape.answer} tokens, "
        f"{plan.threads} thread{'s' if plan.threads > 1 else ''}"
    )
    for what, values in found.items():
        sheet.add(what, Spread.of(values), "tok/s")
    for what, values in found.items():
        _, named, callers_told = what.split(", ")
        if not what.startswith("ours"):
            ours = found[f"ours, {ROLES} roles, {callers_told}"]
            goal = at_least(1) if (named, callers_told) == ("base", "16 callers") else None
            sheet.add(f"ours, {ROLES} roles ÷ {what}", over(ours, values), "x", goal=goal)
    sheet.add(
        "the checkpoint, for any server", made.base, note="--peer URL --peer-model NAME puts it beside ours"
    )
    sheet.add("its adapters", f"{made.adapters[0]} …", note="--peer-adapter NAME, once for each")
    return [sheet]


def _models(peer: Peer) -> dict[str, tuple[str, ...]]:
    adapters = {f"{len(peer.adapters)} adapters": peer.adapters} if peer.adapters else {}
    return {"base": (peer.model,), **adapters}


def _prompts(made: Made) -> Callable[[], list[int]]:
    """Return what gives another prompt at each call, so that nobody's prefix cache knows it."""
    seeds = iter(range(10_000, 10**9))
    return lambda: prompt(made.shape, made.shape.prompt, next(seeds))


def _ours(decoder: Decoder, made: Made, callers: int, items: Sequence[str | None]) -> Callable[[], float]:
    new = _prompts(made)

    def of(stream: int, _: int) -> tuple[str | None, Sequence[int]]:
        return items[stream % len(items)], new()

    def case() -> float:
        rate, _ = streams.run(streams.closed_loop(decoder, callers, 2, of, made.shape.answer))
        return float(rate)

    return case


def _theirs(url: str, made: Made, callers: int, models: Sequence[str]) -> Callable[[], float]:
    new = _prompts(made)

    async def loop() -> float:
        limits = httpx.Limits(max_connections=callers)
        async with httpx.AsyncClient(timeout=PEER_S, limits=limits) as client:

            async def caller(stream: int) -> int:
                model = models[stream % len(models)]
                texts = [text_of(new()) for _ in range(2)]
                return sum([await complete(client, url, model, text, made.shape.answer) for text in texts])

            began_s = time.perf_counter()
            tokens = sum(await asyncio.gather(*map(caller, range(callers))))
            return tokens / (time.perf_counter() - began_s)

    return lambda: float(streams.run(loop()))


async def complete(client: httpx.AsyncClient, url: str, model: str, text: str, answer: int) -> int:
    """Have a server continue `text` by `answer` tokens; return how many came.

    Raises WorldError TRC072 if it refuses, cannot be reached, or streams no tokens.
    """
    asked = {
        "model": model, "prompt": text, "max_tokens": answer, "temperature": 0, "ignore_eos": True,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    pieces, counted = 0, 0
    try:
        async with client.stream(
            "POST", f"{url.rstrip('/').removesuffix('/v1')}/v1/completions", json=asked
        ) as answered:
            if answered.is_error:
                told = (await answered.aread()).decode(errors="replace")
                raise WorldError("TRC072", f"the peer at {url} answers {answered.status_code}: {told[:200]}")
            async for line in answered.aiter_lines():
                told = line.removeprefix("data:").strip()
                if line.startswith("data:") and told != "[DONE]":
                    piece: dict[str, Any] = json.loads(told)
                    pieces += any(choice.get("text") for choice in piece.get("choices") or ())
                    counted = int((piece.get("usage") or {}).get("completion_tokens") or counted)
    except (httpx.HTTPError, ValueError) as error:
        raise WorldError("TRC072", f"the peer at {url} does not answer: {error!r}", "is it up?") from error
    if not (counted or pieces):
        raise WorldError("TRC072", f"the peer at {url} streamed no token for model {model}")
    return counted or pieces
