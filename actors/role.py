"""The Role actor: search its shards, consult other roles, build the prompt, stream from its engine. No torch.

A warm ask makes no call to the coordinator. When the engine says Cold, the role asks the coordinator once to
bring the adapter up, and tries once more; the engine, not a table, decides what is there.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import ray
from ray.exceptions import RayError

from actors.answer import Activation, End, Event, Found, Piece
from actors.ask import Ask, Stamp, admit, drawn_by
from actors.counsel import Counsel, Using, consult, search, together
from actors.errors import Broken, Moved, Unreachable, translate
from actors.lm.chat import Chat
from actors.lm.request import Request
from actors.names import Handles
from actors.nearest import anatomy_of, nearest
from actors.rag.prompt import build
from placement.errors import Cold, TierceError, WorldError

if TYPE_CHECKING:
    from actors.lm.request import Delta
    from actors.rag.prompt import Prompt
    from placement.config.schema import Generation

#: An engine ends a request by its own deadline, with the reason; this long its word may take.
LATE_S = 1.0
RETRY_S = 0.2
#: how often an answer is begun
TRIES = 3


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """What a role is built from.

    Either `item` (its adapter version) or `failure` is set; neither for an adapter at an address that was
    never fetched. `incarnation` counts the role's actors, this one included.
    """

    name: str
    lab: str
    node: str
    item: str
    failure: TierceError | None
    persona: str
    model: str
    #: the engines of its base, by name
    engines: tuple[str, ...]
    #: the most tokens that prompt and answer of one request may have
    room: int
    embedder: str
    shards: tuple[Using, ...]
    activated_by: tuple[str, ...]
    consults: tuple[str, ...]
    generation: Generation
    want_s: float
    incarnation: int

    @property
    def serves(self) -> str:
        return self.failure.code if self.failure else self.item

    @property
    def actor(self) -> str:
        """The name of the actor of this incarnation."""
        plain = f"role:{self.name}"
        return plain if self.incarnation <= 1 else f"{plain}#{self.incarnation}"

    @property
    def mark(self) -> str:
        """A hash of all that makes this role what it is: equal for incarnations that do the same."""
        return hashlib.sha256(repr(replace(self, incarnation=0)).encode()).hexdigest()

    def incarnated(self, number: int) -> RoleSpec:
        """Return the spec of another incarnation."""
        return replace(self, incarnation=number)


@dataclass(frozen=True, slots=True)
class Speaking:
    """What a role actor reports of itself; `serves` is its item, or the code of its failure.

    `asking` counts the answers that it gives now; `mark` is that of its spec.
    """

    pid: int
    rss: int
    torch: bool
    serves: str
    node: str
    incarnation: int
    asking: int
    mark: str


@dataclass(slots=True)
class _Course:
    """How far one answer has come, and when it must have ended."""

    began_s: float
    ends_s: float
    caller: str
    sent: bool = False
    first_token_s: float = 0.0
    activation: Activation | None = None
    fetched_s: float = 0.0
    tokens: int = 0
    finish: str = ""
    counsel: Counsel = field(default_factory=Counsel)

    def passed_s(self) -> float:
        return time.perf_counter() - self.began_s

    def left_s(self) -> float:
        return max(self.ends_s - time.perf_counter(), 0.0)


class Role:
    """Plain class; `actors.crew` wraps it as the actor `role:<name>`, or `role:<name>#2` and so on."""

    def __init__(self, spec: RoleSpec) -> None:
        self.spec = spec
        self.handles = Handles(spec.lab)
        self._item = spec.item
        self._fetching = asyncio.Lock()
        self._chat: Chat | None = None
        self._asking = 0
        self._quiet = asyncio.Event()
        self._closing = False

    async def ask(self, ask: Ask, stamp: Stamp) -> AsyncIterator[Event]:
        """Stream one answer: `Found` once, `Piece`s, then `End`; or raise one typed error.

        Raises Moved if this incarnation ends, NotAllowed for a caller that `activated_by` does not name and
        for a circle of roles, the adapter's own error for a role whose adapter cannot serve, and Broken if
        the stream ends before its end.
        """
        spec = self.spec
        if self._closing:
            raise Moved("TRC018", f"this incarnation of {spec.name} is ending", "ask its current one")
        admit(spec.name, spec.activated_by, stamp)
        if spec.failure is not None:
            raise spec.failure
        self._asking += 1
        try:
            async with aclosing(self._answer(ask, stamp)) as events:
                async for event in events:
                    yield event
        finally:
            self._asking -= 1
            if not self._asking:
                self._quiet.set()

    async def _answer(self, ask: Ask, stamp: Stamp) -> AsyncGenerator[Event, None]:
        spec = self.spec
        began_s = time.perf_counter()
        course = _Course(began_s, began_s + ask.deadline_s, stamp.caller)
        chat = await self._load_chat(course)
        await together(
            search(self.handles, spec.embedder, spec.shards, ask.question, course.left_s(), course.counsel),
            consult(
                self.handles, spec.consults, ask, stamp.through(spec.name), course.left_s(), course.counsel
            ),
        )
        sampling = drawn_by(ask, spec.generation)
        prompt = self._prompt(ask, sampling.max_tokens, chat, course.counsel)
        missing = (*sorted(course.counsel.missing), *prompt.left_out)
        yield Found(prompt.citations, missing, course.passed_s(), prompt.consulted)
        tokens = chat.encode(prompt.messages)
        request = Request(
            id=uuid.uuid4().hex, item=await self._adapter(stamp, course), tokens=tokens, sampling=sampling
        )
        async with aclosing(self._decode(request, course)) as deltas:
            async for delta in deltas:
                if delta.text:
                    yield Piece(delta.text)
        yield End(
            role=spec.name,
            version=self._item,
            finish=course.finish,
            tokens=course.tokens,
            prompt_tokens=len(tokens),
            first_token_s=course.first_token_s,
            total_s=course.passed_s(),
            activation=course.activation,
        )

    def _prompt(self, ask: Ask, max_tokens: int, chat: Chat, counsel: Counsel) -> Prompt:
        return build(
            self.spec.persona,
            ask.question,
            counsel.passages,
            opinions=counsel.opinions,
            said=ask.said,
            count=lambda messages: len(chat.encode(messages)),
            context=self.spec.room,
            max_tokens=max_tokens,
        )

    async def _load_chat(self, course: _Course) -> Chat:
        """Return the base's tokenizer and template: from its directory, or as its engine has them."""
        if self._chat is None:
            model = self.spec.model
            if await asyncio.to_thread(Path(model).is_dir):
                self._chat = await asyncio.to_thread(Chat, model)
            else:
                anatomy = await anatomy_of(self.handles, self.spec.engines, course.left_s())
                self._chat = await asyncio.to_thread(_chat_of, anatomy.chat)
        return self._chat

    async def _adapter(self, stamp: Stamp, course: _Course) -> str:
        """Return the item to ask for; one at an address that was never fetched is fetched once."""
        async with self._fetching:
            if not self._item:
                began_s = time.perf_counter()
                self._item = await self._coordinator(
                    "fetch", self.spec.name, stamp.caller, within_s=course.left_s()
                )
                course.fetched_s = time.perf_counter() - began_s
            return self._item

    async def _decode(self, request: Request, course: _Course) -> AsyncGenerator[Delta, None]:
        """Stream from the engine.

        On Cold (or an engine that is coming back) want the adapter and try again, `TRIES` times in all: once
        is enough unless others who wait have it evicted before this request is there. If one of several
        engines has died, another is tried first: it may have the adapter.
        """
        for left in reversed(range(TRIES)):
            try:
                async with aclosing(self._stream(request, course)) as deltas:
                    async for delta in deltas:
                        yield delta
            except TierceError as error:
                if course.sent:
                    raise Broken(
                        "TRC050", f"the answer of {self.spec.name} broke off: {error}", error.hint
                    ) from error
                if not left or not isinstance(error, (Cold, Unreachable)):
                    raise
                if isinstance(error, Unreachable) and len(self.spec.engines) > 1 and left == TRIES - 1:
                    continue
            else:
                return
            course.activation = await self._want(course)

    async def _stream(self, request: Request, course: _Course) -> AsyncGenerator[Delta, None]:
        name = await nearest(self.handles, self.spec.engines, self._item)
        engine = await self.handles.find(name)
        request = replace(request, deadline_s=course.left_s())
        stream = engine.generate.options(num_returns="streaming").remote(request)
        try:
            while True:
                within_s = course.left_s() + LATE_S
                try:
                    ref = await asyncio.wait_for(anext(stream), within_s)
                    delta: Delta = await asyncio.wait_for(ref, within_s)
                except StopAsyncIteration:
                    break
                except (RayError, TimeoutError) as error:
                    known = translate(error, name)
                    if isinstance(known, Unreachable):
                        self.handles.forget(name)
                    raise known from error
                if not course.sent:
                    course.sent, course.first_token_s = True, course.passed_s()
                course.tokens += len(delta.tokens)
                course.finish = delta.finish or course.finish
                yield delta
        finally:
            ray.cancel(stream)
        if not course.finish:
            raise Broken("TRC050", f"{name} ended the stream of {self.spec.name} without an end")

    async def _want(self, course: _Course) -> Activation:
        """Have the coordinator bring the adapter up; what it took to fetch it belongs to the cost."""
        within_s = min(course.left_s(), self.spec.want_s)
        granted: Activation = await self._coordinator("want", self._item, course.caller, within_s=within_s)
        if course.fetched_s:
            return replace(granted, source="network", total_s=granted.total_s + course.fetched_s)
        return granted

    async def _coordinator(self, method: str, what: str, caller: str, *, within_s: float) -> Any:
        """Call the coordinator about an item; wait through one that is restarting."""
        give_up = time.monotonic() + within_s
        while (left_s := give_up - time.monotonic()) > 0:
            try:
                return await self.handles.call(
                    "coordinator", method, what, caller, left_s, within_s=left_s + LATE_S
                )
            except Unreachable:
                await asyncio.sleep(RETRY_S)
        raise WorldError("TRC012", f"{what} did not come up in {within_s:.0f} s")

    async def close(self, drain_s: float) -> bool:
        """Send new questions away (Moved) from now on; tell whether those in flight ended in `drain_s`."""
        self._closing = True
        give_up = time.monotonic() + drain_s
        while self._asking and (left_s := give_up - time.monotonic()) > 0:
            self._quiet.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), left_s)
        return not self._asking

    async def beat(self) -> Speaking:
        return Speaking(
            pid=os.getpid(),
            rss=psutil.Process().memory_info().rss,
            torch="torch" in sys.modules,
            serves=self.spec.failure.code if self.spec.failure else self._item,
            node=self.spec.node,
            incarnation=self.spec.incarnation,
            asking=self._asking,
            mark=self.spec.mark,
        )


def _chat_of(files: dict[str, bytes]) -> Chat:
    """Return the chat that the files of a base make, by their names."""
    with tempfile.TemporaryDirectory(prefix="tierce-chat-") as folder:
        for name, content in files.items():
            (Path(folder) / Path(name).name).write_bytes(content)
        return Chat(folder)
