"""A lab that lives in the test's own process, and the command line that is pointed at it."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from actors.answer import Activation, Answer, End, Event, Found, Piece
from actors.cli.app import run
from actors.journal import Line
from actors.listing import Listing, Member, Space, Thing
from actors.progress import Progress
from actors.rag.prompt import Citation, Consulted
from actors.renewed import Renewed
from actors.roundtable import RoundTable, Turn
from actors.warming import Warming
from placement.errors import TierceError
from placement.preview.drift import Drift
from placement.preview.foresight import Foresight
from placement.preview.plan import Plan

PHILOSOPHER = Thing(
    kind="role",
    name="philosopher",
    version="3fa9c1d2b0aa",
    tier="VRAM(cpu)",
    node="local",
    home="local:VRAM(cpu)",
    copies=("local:VRAM(cpu) ready", "local:SSD ready"),
    nbytes=1_800_000,
    leases=1,
    last_used_s=2.0,
    idle_until_s=None,
    activations=1,
    hits=7,
    pinned=False,
    phase="ready",
)
CODER = replace(
    PHILOSOPHER,
    name="coder",
    version="0b1c2d3e4f50",
    tier="RAM",
    home="local:RAM",
    idle_until_s=598.0,
    pinned=True,
)
SPACES = (
    Space("local:RAM", 0, 3_600_000, 1 << 30, ""),
    Space("local:VRAM(cpu)", 96 << 20, 1_800_000, 256 << 20, "small 1/8"),
)
MEMBERS = (
    Member("coordinator", "local", 4242, 96 << 20, "running"),
    Member("role:coder", "local", 0, 0, "silent"),
)
ANSWER = (
    Found(
        (Citation(1, "plato", "republic-04.md", "Book IV", 120, 560, 0.834),), ("plato [2]: 80 tokens",), 0.01
    ),
    Piece("Justice is "),
    Piece("doing one's own.\n"),
    End(
        role="philosopher",
        version="philosopher@3fa9c1d2b0aa",
        finish="stop",
        tokens=7,
        prompt_tokens=90,
        first_token_s=0.02,
        total_s=0.5,
        activation=Activation("SSD", 1_800_000, 0.03, 0.01),
    ),
)


EXPORT = """\
# the lab athens as it runs
lab: athens
roles:
  coder:
    lora_path: /adapters/coder
    location: RAM
    unload: {idle: 10min, to: SSD}
    persona: "010"
"""


PASSAGES = (Citation(1, "plato", "republic-04.md", "Book IV", 120, 560, 0.834),)
CONSULTED = (Consulted(2, "coder", "coder@0b1c2d3e4f50", "def justice(): ..."),)
SPOKEN = RoundTable(
    "why?",
    (
        Turn(1, "philosopher", "Justice.", PASSAGES, CONSULTED, (), "philosopher@3fa9", "VRAM", 0.0, 0.5),
        Turn(1, "coder", "return True", (), (), (), "coder@0b1c", "RAM", 0.03, 1.2),
    ),
    warm_ahead=True,
)
HEARD = (
    ("philosopher", Found(PASSAGES, ("plato [2]: 80 tokens",), 0.01, CONSULTED)),
    ("philosopher", Piece("Justice is ")),
    ("philosopher", Piece("doing one's own.")),
    ("philosopher", End("philosopher", "philosopher@3fa9c1d2b0aa", "stop", 7, 90, 0.02, 0.5, None)),
    ("coder", Found((), (), 0.0)),
    ("coder", Piece("return True")),
    ("coder", End("coder", "coder@0b1c2d3e4f50", "stop", 3, 9, 0.1, 1.2, Activation("RAM", 9, 0.03, 0.01))),
)


NOTHING = Plan("athens", "cluster.yaml", "f1", True, False, (), (), (), Foresight())


@dataclass
class Stream:
    """The events of one answer, then its error; `at_piece` is called after each piece."""

    script: tuple[Event, ...]
    error: TierceError | None
    at_piece: Callable[[], None]
    closed: bool = False

    async def events(self):
        try:
            for event in self.script:
                yield event
                if isinstance(event, Piece):
                    self.at_piece()
            if self.error:
                raise self.error
        finally:
            self.closed = True

    @property
    def answer(self) -> Answer:
        text = "".join(event.text for event in self.script if isinstance(event, Piece))
        return Answer(text, self.script[0], self.script[-1])


@dataclass
class Lab:
    """A lab as `tierce.connect()` gives it; `orders` keeps what it was told to do."""

    name: str = "athens"
    things: tuple[Thing, ...] = (PHILOSOPHER, CODER)
    script: tuple[Event, ...] = ANSWER
    error: TierceError | None = None
    problem: str = ""
    before: str = "0a0b0c0d0e0f"
    text: str = EXPORT
    heard: tuple[tuple[str, Event], ...] = HEARD
    spoken: RoundTable = SPOKEN
    table_closed: bool = False
    at_piece: Callable[[], None] = lambda: None
    orders: list[tuple[object, ...]] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)

    @property
    def aio(self) -> "Lab":
        return self

    def stream(self, role: str, question: str, **options: object) -> Stream:
        self.orders.append(("ask", role, question, options))
        self.streams.append(Stream(self.script, self.error, self.at_piece))
        return self.streams[-1]

    def ps(self) -> Listing:
        return Listing(self.name, 3, self.things, MEMBERS, SPACES)

    def _order(self, *order: object) -> Thing:
        if self.error:
            raise self.error
        self.orders.append(order)
        return self.ps().thing(str(order[1]))

    def move(self, item: str, to: str, node: str | None = None) -> Thing:
        return self._order("move", item, to, node)

    def pin(self, item: str) -> Thing:
        return self._order("pin", item)

    def unpin(self, item: str) -> Thing:
        return self._order("unpin", item)

    def warm(self, item: str, within_s: float = 30.0) -> Warming:
        thing = self._order("warm", item, within_s)
        return Warming(thing, 0.0 if thing.tier.startswith("VRAM") else 0.2, evicts=("critic",))

    def unload(self, item: str) -> Thing:
        return self._order("unload", item)

    def add_role(self, name: str, **fields: object) -> Thing:
        self.things = (*self.things, replace(CODER, name=name, problem=self.problem))
        return self._order("add_role", name, fields)

    def update_role(self, name: str, **changes: object) -> Thing:
        return self._order("update_role", name, changes)

    def update(self, role: str) -> Renewed:
        thing = self._order("update", role)
        return Renewed(thing, self.before, thing.version, "/adapters/coder")

    def remove_role(self, name: str) -> Thing:
        return self._order("remove_role", name)

    def export(self) -> str:
        return self.text

    async def roundtable(
        self,
        question: str,
        roles: list[str],
        rounds: int = 1,
        warm_ahead: bool = True,  # noqa: FBT001, FBT002  (the client's own signature)
        *,
        hear: Callable[[str, Event], None],
        **options: object,
    ) -> RoundTable:
        self.orders.append(("roundtable", question, roles, rounds, warm_ahead, options))
        if self.error:
            raise self.error
        try:
            for role, event in self.heard:
                hear(role, event)
                if isinstance(event, Piece):
                    self.at_piece()
                    await asyncio.sleep(0)
        finally:
            self.table_closed = True
        return self.spoken

    def story(self, item: str) -> list[Line]:
        self._order("story", item)
        return [Line(1_800_000_000.25, item, "copy to local:VRAM(cpu): asked for by philosopher")]


@dataclass
class Labs:
    """Where the commands find their labs: here, whatever the address."""

    lab: Lab
    steps: tuple[Progress, ...] = ()
    planned: Plan = NOTHING
    drifted: tuple[Drift, ...] = ()
    asked: list[tuple[object, ...]] = field(default_factory=list)

    def connect(self, lab: str | None, address: str | None) -> Lab:
        self.asked.append(("connect", lab, address))
        return self.lab

    def up(
        self,
        file: str | None,
        *,
        address: str | None,
        dashboard: bool,
        say: Callable[[Progress], None],
        role: tuple[str, dict[str, object]] | None = None,
    ) -> Lab:
        self.asked.append(("up", file, address, dashboard, role))
        for step in self.steps:
            say(step)
        return self.lab

    def plan(self, file: str, address: str | None, *, forget: bool = False) -> Plan:
        self.asked.append(("plan", file, address, forget))
        if self.lab.error:
            raise self.lab.error
        return replace(self.planned, file=file, forget=forget)

    def drift(self, file: str, address: str | None) -> tuple[Drift, ...]:
        self.asked.append(("drift", file, address))
        if self.lab.error:
            raise self.lab.error
        return self.drifted

    def apply(
        self, file: str, address: str | None, *, forget: bool, mark: str, say: Callable[[Progress], None]
    ) -> None:
        self.asked.append(("apply", file, address, forget, mark))
        for step in self.steps:
            say(step)

    def down(self, lab: str | None, address: str | None, *, forget: bool = False) -> object:
        from actors.launch import Lowered

        self.asked.append(("down", lab, address, forget))
        return Lowered("athens", 9, 4200, 31)


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture
def lab() -> Lab:
    """The lab that the commands find."""
    return Lab()


@pytest.fixture
def labs(lab) -> Labs:
    """Where they find it."""
    return Labs(lab)


@pytest.fixture
def tierce(labs, capsys) -> Iterator[Callable[..., Done]]:
    """Run one command as the shell would, in this process."""

    def command(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as ended:
            run(list(arguments), labs)
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    return command
