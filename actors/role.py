"""The Role actor: search its shards, build the prompt, stream from its engine. It imports no torch.

A warm ask makes no call to the coordinator. When the engine says Cold, the role asks the coordinator once to
bring the adapter up, and tries once more; the engine, not a table, decides what is there.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil
import ray
from ray.exceptions import RayError

from actors.answer import Activation, End, Event, Found, Piece
from actors.errors import Broken, NotAllowed, Unreachable, reach, translate
from actors.lm.chat import Chat
from actors.lm.hub import locate
from actors.lm.request import Request, Sampling
from actors.rag.prompt import Passage, build
from placement.errors import Cold, TierceError, WorldError

if TYPE_CHECKING:
    from actors.lm.request import Delta
    from placement.config.schema import Generation

SEARCH_S = 30.0
RETRY_S = 0.2


@dataclass(frozen=True, slots=True)
class Using:
    """A shard that a role reads: how many passages, and whether an answer without it is an error."""

    shard: str
    top_k: int
    required: bool


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """What a role is built from. Exactly one of `item` (its adapter version) and `failure` is set."""

    name: str
    lab: str
    node: str
    item: str
    failure: TierceError | None
    persona: str
    model: str
    engine: str
    #: the most tokens that prompt and answer of one request may have
    room: int
    embedder: str
    shards: tuple[Using, ...]
    activated_by: tuple[str, ...]
    generation: Generation
    want_s: float

    @property
    def serves(self) -> str:
        return self.failure.code if self.failure else self.item


@dataclass(frozen=True, slots=True)
class Ask:
    """A question to a role; None leaves a setting to the role's own `generation`."""

    question: str
    caller: str = "user"
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    deadline_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Speaking:
    """What a role actor reports of itself; `serves` is its item, or the code of its failure."""

    pid: int
    rss: int
    torch: bool
    serves: str


@dataclass(slots=True)
class _Course:
    """How far one answer has come."""

    began_s: float
    sent: bool = False
    first_token_s: float = 0.0
    activation: Activation | None = None
    tokens: int = 0
    finish: str = ""
    missing: list[str] = field(default_factory=list)


class Role:
    """Plain class; `actors.crew` wraps it as the actor `role:<name>`."""

    def __init__(self, spec: RoleSpec) -> None:
        self.spec = spec
        self._chat: Chat | None = None
        self._handles: dict[str, Any] = {}

    def actor(self, name: str) -> Any:
        """Return the handle of another actor of this lab, looked up once."""
        if name not in self._handles:
            try:
                self._handles[name] = ray.get_actor(name, namespace=self.spec.lab)
            except ValueError as error:
                raise Unreachable("TRC031", f"{name} is not running", "run `tierce up` again") from error
        return self._handles[name]

    async def ask(self, ask: Ask) -> AsyncIterator[Event]:
        """Stream one answer: `Found` once, `Piece`s, then `End`; or raise one typed error.

        Raises NotAllowed for a caller that `activated_by` does not name, the adapter's own error for a role
        whose adapter cannot serve, and Broken if the stream ends before its end.
        """
        spec = self.spec
        if ask.caller not in spec.activated_by:
            allowed = ", ".join(spec.activated_by)
            raise NotAllowed(
                "TRC002", f"{ask.caller!r} may not activate {spec.name}", f"activated_by: {allowed}"
            )
        if spec.failure is not None:
            raise spec.failure
        course = _Course(time.perf_counter())
        chat = await self._load_chat()
        passages = await self._search(ask.question, course)
        searched_s = time.perf_counter() - course.began_s
        max_tokens = spec.generation.max_tokens if ask.max_tokens is None else ask.max_tokens
        prompt = build(
            spec.persona,
            ask.question,
            passages,
            count=lambda messages: len(chat.encode(messages)),
            context=spec.room,
            max_tokens=max_tokens,
        )
        yield Found(prompt.citations, (*course.missing, *prompt.left_out), searched_s)
        tokens = chat.encode(prompt.messages)
        request = Request(
            id=uuid.uuid4().hex,
            item=spec.item,
            tokens=tokens,
            sampling=self._sampling(ask, max_tokens),
            deadline_s=ask.deadline_s,
        )
        async for delta in self._decode(request, ask.deadline_s, course):
            if delta.text:
                yield Piece(delta.text)
        yield End(
            role=spec.name,
            version=spec.item,
            finish=course.finish,
            tokens=course.tokens,
            prompt_tokens=len(tokens),
            first_token_s=course.first_token_s,
            total_s=time.perf_counter() - course.began_s,
            activation=course.activation,
        )

    def _sampling(self, ask: Ask, max_tokens: int) -> Sampling:
        own = self.spec.generation
        return Sampling(
            temperature=own.temperature if ask.temperature is None else ask.temperature,
            top_p=own.top_p,
            top_k=own.top_k,
            stop=own.stop,
            seed=own.seed if ask.seed is None else ask.seed,
            max_tokens=max_tokens,
        )

    async def _load_chat(self) -> Chat:
        if self._chat is None:
            self._chat = await asyncio.to_thread(lambda: Chat(locate(self.spec.model)))
        return self._chat

    async def _search(self, question: str, course: _Course) -> list[Passage]:
        """Ask every shard at once; a shard that is not required and does not answer is named as missing."""
        if not self.spec.shards:
            return []
        vectors = await reach(
            self.actor(self.spec.embedder).encode.remote([question]), self.spec.embedder, SEARCH_S
        )
        calls = [
            reach(
                self.actor(f"shard:{using.shard}").search.remote(vectors[0], using.top_k),
                f"shard {using.shard}",
                SEARCH_S,
            )
            for using in self.spec.shards
        ]
        found = await asyncio.gather(*calls, return_exceptions=True)
        passages: list[Passage] = []
        for using, result in zip(self.spec.shards, found, strict=True):
            if not isinstance(result, BaseException):
                passages.extend(result)
            elif using.required or not isinstance(result, TierceError):
                raise result
            else:
                course.missing.append(f"shard {using.shard}: {result}")
        return passages

    async def _decode(self, request: Request, ask_s: float, course: _Course) -> AsyncIterator[Delta]:
        """Stream from the engine.

        On Cold (or an engine that is coming back) want the adapter once and retry once.
        """
        for last in (False, True):
            try:
                async for delta in self._stream(request, ask_s, course):
                    yield delta
            except TierceError as error:
                if course.sent:
                    raise Broken(
                        "TRC050", f"the answer of {self.spec.name} broke off: {error}", error.hint
                    ) from error
                if last or not isinstance(error, (Cold, Unreachable)):
                    raise
            else:
                return
            course.activation = await self._want(ask_s)

    async def _stream(self, request: Request, ask_s: float, course: _Course) -> AsyncIterator[Delta]:
        engine = f"engine:{self.spec.engine}"
        stream = self.actor(engine).generate.options(num_returns="streaming").remote(request)
        try:
            while True:
                try:
                    ref = await asyncio.wait_for(anext(stream), ask_s)
                    delta: Delta = await asyncio.wait_for(ref, ask_s)
                except StopAsyncIteration:
                    break
                except (RayError, TimeoutError) as error:
                    raise translate(error, engine) from error
                if not course.sent:
                    course.sent, course.first_token_s = True, time.perf_counter() - course.began_s
                course.tokens += len(delta.tokens)
                course.finish = delta.finish or course.finish
                yield delta
        finally:
            ray.cancel(stream)
        if not course.finish:
            raise Broken("TRC050", f"{engine} ended the stream of {self.spec.name} without an end")

    async def _want(self, deadline_s: float) -> Activation:
        """Have the coordinator bring the adapter up; wait through a coordinator that is restarting."""
        within_s = min(deadline_s, self.spec.want_s)
        give_up = time.monotonic() + within_s
        while True:
            left_s = give_up - time.monotonic()
            if left_s <= 0:
                raise WorldError("TRC012", f"{self.spec.item} did not come up in {within_s:.0f} s")
            try:
                granted: Activation = await reach(
                    self.actor("coordinator").want.remote(self.spec.item, self.spec.name, left_s),
                    "the coordinator",
                    left_s + 1,
                )
            except Unreachable:
                await asyncio.sleep(RETRY_S)
                continue
            return granted

    async def beat(self) -> Speaking:
        return Speaking(
            pid=os.getpid(),
            rss=psutil.Process().memory_info().rss,
            torch="torch" in sys.modules,
            serves=self.spec.serves,
        )
