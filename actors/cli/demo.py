"""`tierce demo`: the example lab from up to down, in a home of its own: no other lab is disturbed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.rule import Rule
from rich.text import Text

from actors.bench.activations import costs, peft, repeat
from actors.cli.costs import cost_table
from actors.cli.faults import Exit
from actors.cli.screen import Screen
from actors.cli.table import listing_tables
from actors.cli.talk import cost_line, move_line, show_sources, talk
from placement.errors import UserError, WorldError
from placement.units import format_seconds

if TYPE_CHECKING:
    from types import FrameType

    from actors.bench.peft_load import PeftLoads
    from actors.cli.labs import Labs
    from actors.client import Lab

RULE_COLUMNS = 79
ROUNDS = 5
#: Who is asked, and what: one whose adapter rests in VRAM, one in RAM, one on SSD.
ASKS = (
    ("philosopher", "its adapter rests in VRAM", "What is justice?"),
    ("coder", "cold: its adapter rests in RAM", "Write a function `read_lines`."),
    ("artist", "cold: its adapter rests on SSD", "Speak of love."),
)
#: What is moved while the coder speaks.
MOVES = (("philosopher", "RAM"), ("artist", "SSD"), ("artist", "VRAM"))
#: Where those rest by the file.
HOMES = (("philosopher", "VRAM"), ("artist", "SSD"))
MEASURED = ("coder", "artist")


def show(labs: Labs, *, keep: bool) -> int:
    """Run the demo and return its exit code; the lab and its files are gone afterwards, unless `keep`."""
    file = find_file()
    home = tempfile.mkdtemp(prefix="tierce-demo-")
    os.environ.update(HOME=home, TIERCE_HOME=home)  # the file's paths may begin with ~
    os.environ.pop("RAY_ADDRESS", None)
    screen = Screen()
    began_s = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        Demo(screen, labs, file).run()
    finally:
        if keep:
            screen.tell(f"what is up stays up: export TIERCE_HOME={home}; tierce ps; tierce down")
        else:
            end(labs, screen, home)
    screen.tell(f"all of this took {format_seconds(time.monotonic() - began_s)}", "bold")
    return Exit.DONE


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    """Turn the end of the terminal into an end of the demo that takes its lab down."""
    raise SystemExit(128 + number)


def end(labs: Labs, screen: Screen, home: str) -> None:
    """Take down what came up, if anything did, and remove its files."""
    try:
        lowered = labs.down(None, None)
    except WorldError as error:
        if error.code != "TRC040":
            raise
    else:
        screen.tell(f"lab {lowered.lab} is down: {lowered.members} actors and Ray {lowered.head_pid} ended")
    shutil.rmtree(home)


def find_file() -> str:
    """Return the example's cluster.yaml, beside tierce.py or in the current directory, or raise CFG001."""
    import tierce

    for folder in (Path(tierce.__file__).resolve().parent, Path.cwd()):
        if (file := folder / "cluster.yaml").is_file():
            return str(file)
    raise UserError(
        "CFG001", "there is no cluster.yaml here or beside tierce.py", "run the demo in a clone of Tierce"
    )


@dataclass
class Demo:
    """One showing; `pauses_s` keeps the times between the pieces of the answer given during the moves."""

    screen: Screen
    labs: Labs
    file: str
    pauses_s: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Show everything. Raises the first error; a role that came up broken is WorldError TRC071."""
        self.title("one file says where each adapter and each shard lives", self.file)
        lab = self.labs.up(self.file, address=None, dashboard=False, say=self.screen.step)
        self.screen.show(listing_tables(lab.ps(), wide=True))
        self.refuse_broken(lab)
        for role, note, question in ASKS:
            self.title(f"{role}: {question}", note)
            asyncio.run(self.ask(lab, role, question))
        self.title(
            "a live move", f"while coder answers: {', '.join(f'{item} to {to}' for item, to in MOVES)}"
        )
        asyncio.run(self.move_live(lab))
        self.title("the story of artist", "every copy and every drop has its cause")
        for line in lab.story("artist"):
            self.screen.write(str(line))
        for role, home in HOMES:
            lab.move(role, home)
        self.title("what an activation costs", f"{ROUNDS} more of each, and PEFT's load_adapter of the same")
        self.measure(lab)
        self.title("where everything is now", "each role and shard is at its home, or nearer while in use")
        self.screen.show(listing_tables(lab.ps(), wide=False))

    def title(self, text: str, note: str) -> None:
        """Begin a part of the showing."""
        self.screen.out.print()
        self.screen.out.print(Rule(Text(text, "bold"), align="left", style="cyan"), width=RULE_COLUMNS)
        self.screen.out.print(Text(note, "dim"))

    def refuse_broken(self, lab: Lab) -> None:
        broken = [f"{thing.name}: {thing.problem}" for thing in lab.ps().things if thing.problem]
        if broken:
            raise WorldError("TRC071", f"the lab came up in part: {'; '.join(broken)}")

    async def ask(self, lab: Lab, role: str, question: str) -> None:
        """Ask, and show text, sources and cost. Raises WorldError TRC071 for an empty answer."""
        answer = await talk(lab.aio, role, question, {}, lambda text: self.screen.write(text, end=""))
        self.screen.write("")
        show_sources(answer.found, self.screen)
        self.screen.tell(cost_line(answer.end), "dim")
        if not answer.text.strip():
            raise WorldError("TRC071", f"{role} gave an empty answer to {question!r}")

    async def move_live(self, lab: Lab) -> None:
        """Move items while the coder speaks, until all are moved and the last answer is whole."""
        moves = asyncio.create_task(self.moves(lab))
        try:
            while not moves.done():
                await self.speak(lab)
            await moves
        finally:
            moves.cancel()
        median, longest = map(format_seconds, (statistics.median(self.pauses_s), max(self.pauses_s)))
        told = f"{len(self.pauses_s)} pauses between pieces meanwhile: median {median}, longest {longest}"
        self.screen.tell(told, "dim")

    async def speak(self, lab: Lab) -> None:
        times_s: list[float] = []

        def hear(text: str) -> None:
            times_s.append(time.monotonic())
            self.screen.write(text, "dim", end="")

        await talk(lab.aio, "coder", ASKS[1][2], {}, hear)
        self.screen.write("")
        self.pauses_s.extend(after - before for before, after in pairwise(times_s))

    async def moves(self, lab: Lab) -> None:
        for item, to in MOVES:
            before = (await lab.aio.ps()).thing(item)
            began_s = time.monotonic()
            thing = await lab.aio.move(item, to)
            self.screen.write(f"\n  ➜ {move_line(before, thing, time.monotonic() - began_s)}", "bold yellow")

    def measure(self, lab: Lab) -> None:
        """Show the cost of each activation by tier, and PEFT's beside it."""
        from actors.sources import read_lab, resolve

        for role in MEASURED:
            repeat(lab, role, ROUNDS)
        spec = read_lab(self.file)
        root = Path(spec.root)
        loads: dict[str, PeftLoads] = {}
        for role in MEASURED:
            config = spec.roles[role]
            base = spec.bases[config.base or ""]
            with self.screen.err.status(f"PEFT loads {role}"):
                loads[role] = peft(resolve(root, base.model), resolve(root, config.lora_path), ROUNDS)
        self.screen.show(cost_table(costs(lab.activations()), loads))
