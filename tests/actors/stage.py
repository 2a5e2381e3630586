"""A lab with real roles and a play around them: the engine and the coordinator do what a test tells them."""

import asyncio
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import ray

from actors.answer import Activation
from actors.counsel import Using
from actors.lm.chat import Chat
from actors.lm.request import Delta
from actors.rag.prompt import Passage
from actors.role import Role, RoleSpec
from placement.config.schema import Generation
from placement.errors import Cold
from tests.waiting import until

#: Who stays on a stage from one play to the next; the roles and shards of a play end with it.
STAYING = {"engine:small", "coordinator"}


class Engine:
    """Answers for each item "<item> speaks", keeps what it was asked, and holds back what it is told to."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._chat = Chat(model)
        self._heard: list[tuple[str, str]] = []
        self._cold: set[str] = set()
        self._held: dict[str, asyncio.Event] = {}

    async def generate(self, request):
        if request.item in self._cold:
            raise Cold("TRC010", f"{request.item} has no slot")
        self._heard.append((request.item, self._chat.tokenizer.decode(request.tokens)))
        yield Delta(f"{request.item} ", (1,))
        if request.item in self._held:
            await self._held[request.item].wait()
        yield Delta("speaks", (2,), "stop")

    async def heard(self) -> list[tuple[str, str]]:
        """Return (item, prompt) of every request that was begun."""
        return self._heard

    async def cool(self, *items: str) -> None:
        self._cold |= set(items)

    async def attach(self, item: str) -> None:
        self._cold.discard(item)

    async def hold(self, item: str) -> None:
        """Let the answers of an item stop after their first piece, until `release`."""
        self._held[item] = asyncio.Event()

    async def release(self, item: str) -> None:
        self._held.pop(item).set()

    async def forget(self) -> None:
        """Let go of whom was held back, and begin anew."""
        for held in self._held.values():
            held.set()
        self._heard, self._cold, self._held = [], set(), {}

    async def anatomy(self):
        """Return the base's chat files, as an engine on another node gives them."""
        names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json")
        files = [file for file in (Path(self._model) / name for name in names) if file.exists()]
        return SimpleNamespace(chat={file.name: file.read_bytes() for file in files})


class Coordinator:
    """Attaches what is wanted, at once and from RAM; keeps its calls."""

    def __init__(self, lab: str) -> None:
        self._lab = lab
        self._calls: list[tuple[object, ...]] = []

    async def want(self, item: str, caller: str, _within_s: float) -> Activation:
        self._calls.append(("want", item, caller))
        await ray.get_actor("engine:small", namespace=self._lab).attach.remote(item)
        return Activation("RAM", 10, 0.25, 0.01)

    async def warm(self, name: str, _caller: str, cause: str, _within_s: float) -> None:
        self._calls.append(("warm", name, cause))
        await ray.get_actor("engine:small", namespace=self._lab).attach.remote(f"{name}@1")

    async def fetch(self, role: str, caller: str, _within_s: float) -> str:
        self._calls.append(("fetch", role, caller))
        return f"{role}@9"

    async def calls(self) -> list[tuple[object, ...]]:
        return self._calls

    async def forget(self) -> None:
        self._calls = []


class Shard:
    """Finds one passage that repeats the question, and says whether a vector came along."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def search(self, question: str, vector: object, k: int) -> list[Passage]:
        by = "text" if vector is None else "vector"
        return [Passage(f"{question} by {by}", f"{by}.md", "", 0, k, 0.5, self._name)]


class Stage:
    """A namespace of a running Ray with actors in it."""

    def __init__(self, parts: Path) -> None:
        self.lab = f"stage-{uuid.uuid4().hex[:8]}"
        self.model = str(parts / "base")
        self.engine = self.hire("engine:small", Engine, self.model)
        self.coordinator = self.hire("coordinator", Coordinator, self.lab)

    def hire(self, name: str, kind: type, *args: object):
        options = {"name": name, "namespace": self.lab, "lifetime": "detached", "num_cpus": 0}
        return ray.remote(kind).options(**options, max_restarts=-1).remote(*args)

    def spec(self, name: str, **changes: object) -> RoleSpec:
        spec = RoleSpec(
            name=name,
            lab=self.lab,
            node="desk",
            item=f"{name}@1",
            failure=None,
            persona=f"You are {name}.",
            model=self.model,
            engines=("small",),
            room=512,
            embedder="embedder:desk",
            shards=(),
            activated_by=("user",),
            consults=(),
            generation=Generation(max_tokens=20),
            want_s=30.0,
            incarnation=1,
        )
        return replace(spec, **changes)

    def role(self, name: str, **changes: object):
        """Hire a real role; what it is asked waits until its process runs."""
        spec = self.spec(name, **changes)
        actor = f"role:{name}" if spec.incarnation == 1 else f"role:{name}#{spec.incarnation}"
        return self.hire(actor, Role, spec)

    def shard(self, name: str, **using: object) -> Using:
        """Hire a shard; return how a role reads it."""
        self.hire(f"shard:{name}", Shard, name)
        return Using(name, top_k=2, required=True, **using)

    def names(self) -> set[str]:
        """Return the names of all actors here."""
        named = ray.util.list_named_actors(all_namespaces=True)
        return {actor["name"] for actor in named if actor["namespace"] == self.lab}

    def clear(self) -> None:
        """End a play: its roles and shards are gone, engine and coordinator know nothing of it."""
        for name in self.names() - STAYING:
            with suppress(ValueError):  # it has ended by itself
                ray.kill(ray.get_actor(name, namespace=self.lab))
        until(lambda: self.names() == STAYING)
        ray.get([self.engine.forget.remote(), self.coordinator.forget.remote()])

    def heard(self) -> list[tuple[str, str]]:
        return ray.get(self.engine.heard.remote())

    def calls(self) -> list[tuple[object, ...]]:
        return ray.get(self.coordinator.calls.remote())
