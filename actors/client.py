"""`tierce.connect()`: the lab as an object, for scripts, notebooks and the command line."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from actors.aio import AioLab
from actors.answer import Piece
from actors.joining import attach, labs
from actors.roundtable import nobody
from placement.errors import WorldError

if TYPE_CHECKING:
    from actors.answer import Answer, Event
    from actors.description import Description
    from actors.journal import Activated, Line
    from actors.listing import Listing, Thing
    from actors.renewed import Renewed
    from actors.roundtable import RoundTable
    from actors.warming import Warming
    from placement.why import Why

T = TypeVar("T")


class Lab:
    """A running lab; calls block, and are described at AioLab. `aio` is the same lab for `await`.

    Made by `tierce.connect()`.
    """

    def __init__(self, name: str) -> None:
        self.aio = AioLab(name)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="tierce", daemon=True).start()

    @classmethod
    def connect(cls, name: str | None = None, *, address: str | None = None) -> Self:
        """Attach to lab `name`, or to the only lab that runs.

        Raises WorldError TRC040 if none or several do.
        """
        attach(address, name)
        running = labs()
        if not running:
            raise WorldError("TRC040", "no lab runs here", "start one: tierce up cluster.yaml")
        if name is None:
            if len(running) > 1:
                raise WorldError(
                    "TRC040", f"{len(running)} labs run here: {', '.join(running)}", "name one: --lab NAME"
                )
            name = running[0]
        elif name not in running:
            raise WorldError("TRC040", f"lab {name!r} is not up; running: {', '.join(running) or 'none'}")
        return cls(name)

    def __repr__(self) -> str:
        return f"<Lab {self.aio.name}>"

    @property
    def name(self) -> str:
        return self.aio.name

    def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        task = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return task.result()
        except (
            BaseException
        ):  # Ctrl-C or an interrupted cell: the call must not go on behind the caller's back
            task.cancel()
            raise

    def ask(self, role: str, question: str, **options: Any) -> Answer:
        return self._wait(self.aio.ask(role, question, **options))

    def stream(self, role: str, question: str, **options: Any) -> Iterator[str]:
        """Iterate over the text as it is decoded. Leaving the loop stops the decoding."""
        for event in self.events(role, question, **options):
            if isinstance(event, Piece):
                yield event.text

    def events(self, role: str, question: str, **options: Any) -> Iterator[Event]:
        """Iterate over `Found`, `Piece`s and `End` of one answer."""
        pending = self.aio.stream(role, question, **options).events()
        try:
            while (event := self._wait(_step(pending))) is not None:
                yield event
        finally:
            self._wait(_close(pending))

    def roundtable(
        self,
        question: str,
        roles: Sequence[str],
        rounds: int = 1,
        warm_ahead: bool = True,  # noqa: FBT001, FBT002  (the same word as in the lab's file)
        *,
        hear: Callable[[str, Event], None] = nobody,
        **options: Any,
    ) -> RoundTable:
        return self._wait(self.aio.roundtable(question, roles, rounds, warm_ahead, hear=hear, **options))

    def ps(self) -> Listing:
        return self._wait(self.aio.ps())

    def move(self, item: str, to: str | None = None, node: str | None = None) -> Thing:
        return self._wait(self.aio.move(item, to, node))

    def pin(self, item: str) -> Thing:
        return self._wait(self.aio.pin(item))

    def unpin(self, item: str) -> Thing:
        return self._wait(self.aio.unpin(item))

    def warm(self, name: str, within_s: float = 30.0) -> Warming:
        return self._wait(self.aio.warm(name, within_s))

    def cool(self, name: str) -> Thing:
        return self._wait(self.aio.cool(name))

    def unload(self, name: str) -> Thing:
        return self._wait(self.aio.unload(name))

    def add_role(self, name: str, **fields: Any) -> Thing:
        return self._wait(self.aio.add_role(name, **fields))

    def update_role(self, name: str, **changes: Any) -> Thing:
        return self._wait(self.aio.update_role(name, **changes))

    def update(self, role: str) -> Renewed:
        return self._wait(self.aio.update(role))

    def remove_role(self, name: str) -> Thing:
        return self._wait(self.aio.remove_role(name))

    def export(self) -> str:
        return self._wait(self.aio.export())

    def describe(self, name: str) -> Description:
        return self._wait(self.aio.describe(name))

    def why(self, name: str) -> Why:
        return self._wait(self.aio.why(name))

    def story(self, item: str) -> list[Line]:
        return self._wait(self.aio.story(item))

    def activations(self) -> list[Activated]:
        return self._wait(self.aio.activations())

    def down(self, *, forget: bool = False) -> list[str]:
        return self._wait(self.aio.down(forget=forget))


async def _step(events: AsyncGenerator[Event, None]) -> Event | None:
    return await anext(events, None)


async def _close(events: AsyncGenerator[Event, None]) -> None:
    await events.aclose()
