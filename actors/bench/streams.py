"""Requests to a decoder, and when each of their tokens came."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from actors.bench import rig

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from actors.lm.decoder import Decoder


@dataclass(slots=True)
class Answer:
    """An answer's tokens; `came_s` has the time of each piece, on `time.perf_counter`'s clock."""

    asked_s: float
    tokens: list[int] = field(default_factory=list)
    came_s: list[float] = field(default_factory=list)
    logprobs: list[object] = field(default_factory=list)

    @property
    def first_s(self) -> float:
        """Return the seconds until the first token."""
        return self.came_s[0] - self.asked_s

    @property
    def took_s(self) -> float:
        return self.came_s[-1] - self.asked_s


async def ask(
    decoder: Decoder,
    item: str | None,
    tokens: Sequence[int],
    max_tokens: int,
    *,
    heard: Callable[[Answer], object] | None = None,
    **asked: Any,
) -> Answer:
    """Ask once and read the answer to its end; `heard` is called after each piece."""
    answer = Answer(time.perf_counter())
    async for delta in decoder.generate(rig.request(item, tokens, max_tokens, **asked)):
        answer.tokens.extend(delta.tokens)
        answer.came_s.append(time.perf_counter())
        answer.logprobs.extend(rig.logprobs(delta))
        if heard is not None:
            heard(answer)
    return answer


async def closed_loop(
    decoder: Decoder,
    streams: int,
    turns: int,
    of: Callable[[int, int], tuple[str | None, Sequence[int]]],
    max_tokens: int,
) -> tuple[float, list[Answer]]:
    """Have `streams` callers ask `turns` times each, one after the other; return tokens/s and the answers."""

    async def caller(stream: int) -> list[Answer]:
        return [await ask(decoder, *of(stream, turn), max_tokens) for turn in range(turns)]

    began_s = time.perf_counter()
    answers = [each for some in await asyncio.gather(*map(caller, range(streams))) for each in some]
    took_s = time.perf_counter() - began_s
    return sum(len(answer.tokens) for answer in answers) / took_s, answers


class Hot:
    """Roles that answer without a pause while something else happens; `gaps` tells how it went for them."""

    def __init__(
        self, decoder: Decoder, items: Sequence[str | None], prompts: Sequence[Sequence[int]], answer: int
    ) -> None:
        self._decoder = decoder
        self._items = items
        self._prompts = prompts
        self._answer = answer
        self._answers: list[list[Answer]] = [[] for _ in items]
        self._tasks: list[asyncio.Task[None]] = []
        self._heard = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._stream(at)) for at in range(len(self._items))]
        await self.until(lambda: all(answers and len(answers[-1].came_s) > 1 for answers in self._answers))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def steps(self, count: int) -> None:
        """Return when `count` more pieces have come to the first stream."""
        target = self._pieces() + count
        await self.until(lambda: self._pieces() >= target)

    async def until(self, true: Callable[[], bool]) -> None:
        """Return when `true` is so after some piece; raises what ended a stream."""
        while not true():
            for task in self._tasks:
                if task.done():
                    task.result()
            self._heard.clear()
            await self._heard.wait()

    def gaps(self, began_s: float, ended_s: float) -> list[float]:
        """Return the seconds between two tokens of one answer, wherever that time meets the given one."""
        return [
            later - earlier
            for answers in self._answers
            for answer in answers
            for earlier, later in zip(answer.came_s, answer.came_s[1:], strict=False)
            if began_s <= later and earlier <= ended_s
        ]

    async def during(self, act: Callable[[], Awaitable[object]]) -> list[float]:
        """Return the gaps that met `act`; returns when none of them is open any more."""
        began_s = time.perf_counter()
        await act()
        ended_s = time.perf_counter()
        await self.steps(2)
        return self.gaps(began_s, ended_s)

    async def idle(self, steps: int) -> list[float]:
        """Return the gaps of that many steps in which nothing else happens."""
        await self.steps(1)
        return await self.during(lambda: self.steps(steps))

    def _pieces(self) -> int:
        return sum(len(answer.came_s) for answer in self._answers[0])

    async def _stream(self, at: int) -> None:
        def begin(answer: Answer) -> None:
            if not self._answers[at] or self._answers[at][-1] is not answer:
                self._answers[at].append(answer)
            self._heard.set()

        try:
            while True:
                await ask(self._decoder, self._items[at], self._prompts[at], self._answer, heard=begin)
        finally:
            self._heard.set()


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on an event loop of its own."""
    return asyncio.run(work)
