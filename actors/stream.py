"""One answer of a role as it comes, from the incarnation that speaks now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from actors.answer import Answer, End, Found, Piece
from actors.errors import LOST, Moved, Unreachable, reach, translate
from placement.errors import TierceError, WorldError

if TYPE_CHECKING:
    from actors.answer import Event
    from actors.ask import Ask, Stamp
    from actors.names import Handles

#: A role ends its answer by its own deadline, with the reason; this long its word may take, and no longer
#: than a quarter of the deadline.
LATE_S = 2.0
#: How long a role that was killed is waited for.
RESTART_S = 20.0
#: A role that has said nothing for so long is asked whether it is there: it may wait for an adapter, or for a
#: machine that is gone.
QUIET_S = 5.0
POLL_S = 0.25


class Stream:
    """The pieces of an answer as they come; `answer` is there once it has ended.

    Closing it stops the decoding. A role that hangs ends it too, in an error, after the ask's `deadline_s`;
    one whose process or machine is gone, after RESTART_S.
    """

    def __init__(self, handles: Handles, role: str, ask: Ask, stamp: Stamp) -> None:
        self._handles = handles
        self._role = f"role:{role}"
        self._ask = ask
        self._stamp = stamp
        self._late_s = min(LATE_S, ask.deadline_s / 4)
        self._give_up = 0.0
        self._lost = False
        self._texts: list[str] = []
        self._found: Found | None = None
        self._end: End | None = None

    async def __aiter__(self) -> AsyncIterator[str]:
        async with aclosing(self.events()) as events:
            async for event in events:
                if isinstance(event, Piece):
                    yield event.text

    async def events(self) -> AsyncGenerator[Event, None]:
        """Iterate over everything: `Found`, `Piece`s, `End`. Raises the typed error that ended the answer.

        A role that has moved or died before its first event is looked up again and asked once more.
        """
        self._give_up = time.monotonic() + self._ask.deadline_s + self._late_s
        for last in (False, True):
            try:
                async with aclosing(self._attempt()) as events:
                    async for event in events:
                        yield event
            except TierceError:
                if last or not self._lost or self._found is not None:
                    raise
            else:
                return
            self._handles.forget(self._role)
            await self._await_role()

    async def _attempt(self) -> AsyncGenerator[Event, None]:
        self._lost = False
        role = await self._handles.find(self._role)
        events = role.ask.options(num_returns="streaming").remote(self._ask, self._stamp)
        try:
            while True:
                try:
                    event = await self._next(role, events)
                except StopAsyncIteration:
                    return
                except (RayError, TimeoutError) as error:
                    known = translate(error, self._role)
                    self._lost = isinstance(known, Moved) or isinstance(error, LOST)
                    raise known from error
                match event:
                    case Found():
                        self._found = event
                    case Piece(text):
                        self._texts.append(text)
                    case End():
                        self._end = event
                yield event
        finally:
            ray.cancel(events)

    async def _next(self, role: Any, events: Any) -> Event:
        """Wait for the next event. Raises Unreachable TRC031 for a role that is not there to tell any."""
        coming, looking = asyncio.ensure_future(_next(events)), None
        try:
            while True:
                left_s = max(self._give_up - time.monotonic(), self._late_s)
                await asyncio.wait({coming}, timeout=min(left_s, QUIET_S))
                if not coming.done() and left_s > QUIET_S:
                    looking = asyncio.ensure_future(self._look(role, min(left_s - QUIET_S, RESTART_S)))
                    await asyncio.wait({coming, looking}, return_when=asyncio.FIRST_COMPLETED)
                if coming.done():
                    return await coming
                if looking is None or left_s <= QUIET_S:
                    raise TimeoutError
                await looking
        finally:
            coming.cancel()
            if looking is not None:
                looking.cancel()

    async def _look(self, role: Any, within_s: float) -> None:
        """Ask the incarnation that answers for a sign of life."""
        try:
            await reach(role.beat.remote(), self._role, within_s)
        except Unreachable as error:
            hint = "`tierce ps` says whether its node is; it begins anew with it"
            raise Unreachable("TRC031", f"{self._role} is not there: {error.message}", hint) from error

    async def _await_role(self) -> None:
        """Wait for the current incarnation to answer a call; asking it says what is wrong if it does not."""
        give_up = min(self._give_up, time.monotonic() + RESTART_S)
        while (left_s := give_up - time.monotonic()) > 0:
            try:
                await self._handles.call(self._role, "beat", within_s=left_s)
            except Unreachable:
                await asyncio.sleep(min(POLL_S, left_s))
            else:
                return

    @property
    def found(self) -> Found | None:
        """The sources, as soon as they are known."""
        return self._found

    async def whole(self) -> Answer:
        """Wait for the end and return the whole answer."""
        async with aclosing(self.events()) as events:
            async for _ in events:
                pass
        return self.answer

    @property
    def answer(self) -> Answer:
        """The whole answer. Raises WorldError TRC051 before its end."""
        if self._found is None or self._end is None:
            raise WorldError("TRC051", "the answer has not ended yet", "iterate over the stream first")
        return Answer("".join(self._texts), self._found, self._end, self._ask.question)


async def _next(events: Any) -> Event:
    event: Event = await (await anext(events))
    return event
