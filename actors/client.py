"""`tierce.connect()`: the lab as an object, for scripts, notebooks and the command line."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

import ray
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.exceptions import RayError

from actors.answer import Answer, End, Found, Piece
from actors.errors import UnknownName, Unreachable, reach, translate
from actors.head import Head, heads
from actors.role import Ask
from placement.errors import TierceError, WorldError

if TYPE_CHECKING:
    from actors.answer import Event
    from actors.journal import Activated, Line
    from actors.listing import Listing, Thing

T = TypeVar("T")

CALL_S = 30.0
DOWN_S = 60.0
RETRY_S = 0.25


def attach(address: str | None = None, lab: str | None = None) -> None:
    """Join Ray.

    What this process joined already, `address`, RAY_ADDRESS, or the head that `tierce up` started for `lab`,
    or the only one. Raises WorldError TRC040 if there is nothing to join or too much, TRC044 if it cannot be
    joined.
    """
    if ray.is_initialized():
        return
    own = heads()
    target = _target(own, lab, address or os.environ.get("RAY_ADDRESS"))
    for head in own:
        if head.address == target:
            os.environ.update(head.environment())
            _read_auth_again()
    try:
        ray.init(address=target, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise WorldError(
            "TRC044", f"Ray at {target} cannot be joined: {error}", "is it running? is the token right?"
        ) from error


def _target(own: list[Head], lab: str | None, address: str | None) -> str:
    if address and "://" in address:
        raise WorldError(
            "TRC044",
            f"{address} is where jobs are submitted; a command needs the address of Ray itself",
            "pass HOST:PORT of `ray start` by --address or RAY_ADDRESS",
        )
    if address:
        return address
    if not own:
        raise WorldError("TRC040", "no lab runs on this machine", "start one: tierce up cluster.yaml")
    chosen = [head for head in own if head.lab == lab] or own
    if len(chosen) > 1:
        names = ", ".join(head.lab for head in own)
        raise WorldError("TRC040", f"{len(own)} labs run on this machine: {names}", "name one: --lab NAME")
    return chosen[0].address


def _read_auth_again() -> None:
    """Have Ray look at RAY_AUTH_MODE and the token once more: it read them when it was imported."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def labs() -> list[str]:
    """Return the names of the labs that run on the Ray that this process joined."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return sorted(actor["namespace"] for actor in named if actor["name"] == "coordinator")


def end_actors(lab: str) -> list[str]:
    """Kill every actor of a lab, its coordinator first, and wait for their names to be free; return them."""
    named = ray.util.list_named_actors(all_namespaces=True)
    names = sorted((actor["name"] for actor in named if actor["namespace"] == lab), key=_coordinator_first)
    for name in names:
        with suppress(ValueError):  # it has ended by itself
            ray.kill(ray.get_actor(name, namespace=lab))
    give_up = time.monotonic() + DOWN_S
    while left := [
        actor for actor in ray.util.list_named_actors(all_namespaces=True) if actor["namespace"] == lab
    ]:
        if time.monotonic() > give_up:
            stuck = ", ".join(actor["name"] for actor in left)
            raise WorldError("TRC043", f"actors of lab {lab} do not end: {stuck}", "stop their Ray")
        time.sleep(RETRY_S / 5)
    return names


def _coordinator_first(name: str) -> bool:
    return name != "coordinator"


class Stream:
    """The pieces of an answer as they come; `answer` is there once it has ended.

    Closing it stops the decoding.
    """

    def __init__(self, question: str, events: Any) -> None:
        self._question = question
        self._events = events
        self._texts: list[str] = []
        self._found: Found | None = None
        self._end: End | None = None

    async def __aiter__(self) -> AsyncIterator[str]:
        async for event in self.events():
            if isinstance(event, Piece):
                yield event.text

    async def events(self) -> AsyncGenerator[Event, None]:
        """Iterate over everything: `Found`, `Piece`s, `End`. Raises the typed error that ended the answer."""
        try:
            while True:
                try:
                    event: Event = await (await anext(self._events))
                except StopAsyncIteration:
                    return
                except RayError as error:
                    raise translate(error, "the role") from error
                match event:
                    case Found():
                        self._found = event
                    case Piece(text):
                        self._texts.append(text)
                    case End():
                        self._end = event
                yield event
        finally:
            ray.cancel(self._events)

    @property
    def found(self) -> Found | None:
        """The passages, as soon as they are known."""
        return self._found

    @property
    def answer(self) -> Answer:
        """The whole answer. Raises WorldError TRC051 before its end."""
        if self._found is None or self._end is None:
            raise WorldError("TRC051", "the answer has not ended yet", "iterate over the stream first")
        return Answer("".join(self._texts), self._found, self._end, self._question)


class AioLab:
    """A running lab, on the running event loop. Every call has a deadline and raises typed errors only."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def _call(self, actor: str, method: str, *args: Any, within_s: float = CALL_S) -> Any:
        """Call an actor; one that restarts is waited for, up to `within_s`."""
        give_up = asyncio.get_running_loop().time() + within_s
        while True:
            left_s = give_up - asyncio.get_running_loop().time()
            try:
                return await asyncio.wait_for(
                    getattr(self._actor(actor), method).remote(*args), max(left_s, 0.1)
                )
            except (RayError, TimeoutError) as error:
                known = translate(error, actor)
                if left_s <= RETRY_S or not isinstance(known, Unreachable) or isinstance(error, TimeoutError):
                    raise known from error
            await asyncio.sleep(RETRY_S)

    def _actor(self, name: str) -> Any:
        try:
            return ray.get_actor(name, namespace=self.name)
        except ValueError as error:
            kind, _, plain = name.partition(":")
            if kind == "role":
                raise UnknownName(
                    "TRC001", f"lab {self.name} has no role {plain!r}", "see `tierce ps`"
                ) from error
            raise WorldError(
                "TRC040", f"lab {self.name} is not up", "start it: tierce up cluster.yaml"
            ) from error

    def stream(self, role: str, question: str, **options: Any) -> Stream:
        """Ask `role`; iterate over what comes back for the text as it is decoded.

        `options` as in `actors.role.Ask`.
        """
        ask = Ask(question, **options)
        return Stream(question, self._actor(f"role:{role}").ask.options(num_returns="streaming").remote(ask))

    async def ask(self, role: str, question: str, **options: Any) -> Answer:
        """Ask `role` and wait for its whole answer."""
        stream = self.stream(role, question, **options)
        async for _ in stream.events():
            pass
        return stream.answer

    async def ps(self) -> Listing:
        """Say where everything is now."""
        listing: Listing = await self._call("coordinator", "ps")
        return listing

    async def move(self, item: str, to: str, node: str | None = None, *, within_s: float = 120.0) -> Thing:
        """Give a role or shard a new home, and wait until it is there and has left its old place."""
        thing: Thing = await self._call(
            "coordinator", "move", item, to, node, within_s, within_s=within_s + CALL_S
        )
        return thing

    async def pin(self, item: str) -> Thing:
        """Never let a role or shard leave its home, until `unpin`."""
        thing: Thing = await self._call("coordinator", "pin", item, True)
        return thing

    async def unpin(self, item: str) -> Thing:
        """Let it leave its home again."""
        thing: Thing = await self._call("coordinator", "pin", item, False)
        return thing

    async def story(self, item: str) -> list[Line]:
        """Say what happened to a role or shard, oldest first, with causes."""
        lines: list[Line] = await self._call("coordinator", "story", item)
        return lines

    async def activations(self) -> list[Activated]:
        """Return what each activation cost since the lab came up."""
        costs: list[Activated] = await self._call("coordinator", "activations")
        return costs

    async def down(self) -> list[str]:
        """End the lab's actors and return their names; the files of its SSD tier and its story stay.

        A lab that is still coming up, or whose coordinator does not answer, is ended all the same.
        """
        coordinator = self._actor("coordinator")
        with suppress(TierceError):  # whatever it says, its actors are ended below
            await reach(coordinator.down.remote(), "the coordinator", DOWN_S)
        return await asyncio.to_thread(end_actors, self.name)


class Lab:
    """A running lab; calls block. `aio` is the same lab for `await`. Made by `tierce.connect()`."""

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

    def ps(self) -> Listing:
        return self._wait(self.aio.ps())

    def move(self, item: str, to: str, node: str | None = None) -> Thing:
        return self._wait(self.aio.move(item, to, node))

    def pin(self, item: str) -> Thing:
        return self._wait(self.aio.pin(item))

    def unpin(self, item: str) -> Thing:
        return self._wait(self.aio.unpin(item))

    def story(self, item: str) -> list[Line]:
        return self._wait(self.aio.story(item))

    def activations(self) -> list[Activated]:
        return self._wait(self.aio.activations())

    def down(self) -> list[str]:
        return self._wait(self.aio.down())


async def _step(events: AsyncGenerator[Event, None]) -> Event | None:
    return await anext(events, None)


async def _close(events: AsyncGenerator[Event, None]) -> None:
    await events.aclose()
