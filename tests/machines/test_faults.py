"""Faults of a lab over three nodes: each kind of actor, a node, the coordinator at each step of a move."""

import os
import signal
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from actors.errors import Unreachable
from actors.launch import lower_lab, raise_lab
from placement.errors import TierceError, WorldError
from tests.machines.three import write_file
from tests.tiny_lab import without_shards
from tests.waiting import until

pytestmark = pytest.mark.ray


def pid_of(lab, name):
    """Return the pid of an actor by the lab's own report; 0 while it does not answer."""
    return next((member.pid for member in lab.ps().members if member.name == name), 0)


def at_home(lab, name):
    """Tell whether an item is ready where it belongs."""
    thing = lab.ps().thing(name)
    return f"{thing.home} ready" in thing.copies


def lines(lab, item):
    """Return how many lines an item's story has in the journal on disk."""
    journal = Path(os.environ["TIERCE_HOME"]) / lab.name / "journal.db"
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database:
        return database.execute("SELECT count(*) FROM story WHERE item GLOB ?", (f"{item}@*",)).fetchone()[0]


class Asking:
    """Somebody who asks all the time: what was said, and which typed errors came."""

    def __init__(self, lab, *roles):
        self.lab, self.roles = lab, roles
        self.words, self.errors = {}, []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(role,)) for role in roles]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        until(lambda: len(self.words) == len(self.roles))
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, role):
        while not self._stop.is_set():
            try:
                answer = self.lab.ask(role, "Hello?", deadline_s=60.0)
                self.words.setdefault(role, set()).add((answer.text, answer.version))
            except TierceError as error:
                self.errors.append(error)


@pytest.mark.parametrize(
    "member",
    [
        "store:attic",
        "engine:small",
        pytest.param("role:coder", marks=pytest.mark.soak),
        pytest.param("shard:war", marks=pytest.mark.soak),
        pytest.param("embedder:attic", marks=pytest.mark.soak),
        "coordinator",
    ],
)
def test_a_killed_actor_costs_typed_errors_at_most(lab, member):
    """Kill -9 under load: every answer is whole and in the same words, and `ps` is true again in time."""
    with Asking(lab, "philosopher", "coder", "artist") as asking:
        old = pid_of(lab, member)
        os.kill(old, signal.SIGKILL)
        until(lambda: pid_of(lab, member) not in {0, old})
        until(lambda: all(at_home(lab, name) for name in ("philosopher", "coder", "war", "bread")))
    assert all(len(said) == 1 for said in asking.words.values()), asking.words
    assert all(isinstance(error, WorldError) for error in asking.errors), asking.errors
    assert lab.ask("philosopher", "When did the wall fall?").citations


def test_a_lost_node_is_told_and_its_things_return_home_with_it(lab, machines):
    """Kill -9 of a raylet: what it had is told as lost, others answer on; when it returns, all comes home."""
    words = lab.ask("coder", "Hello?").text
    lab.unload("coder")
    machines.kill_raylet("attic")
    try:
        until(lambda: lab.ps().thing("war").phase in {"lost", "failed"})
        assert lab.ask("artist", "When does the baker knead?").citations
        with pytest.raises(Unreachable, match="role:coder is not"):
            lab.ask("coder", "Hello?")
    finally:
        machines.add_node("attic")
    until(lambda: at_home(lab, "coder") and at_home(lab, "war"))
    until(lambda: answers(lab, "coder") == words)
    assert lab.ask("philosopher", "When did the wall fall?").citations[0].document == "war.md"


def answers(lab, role):
    """Return what a role says, or the code of why it does not."""
    try:
        return lab.ask(role, "Hello?", deadline_s=20.0).text
    except TierceError as error:
        return error.code


#: In `make soak` at every step; in every run in the middle.
STEPS = [step if step == 4 else pytest.param(step, marks=pytest.mark.soak) for step in range(1, 8)]


@pytest.mark.parametrize("step", STEPS)
def test_a_coordinator_killed_at_any_step_of_a_move_loses_nothing(lab, step):
    """Killed when the story of a move between nodes has so many lines, the next one finishes or undoes it."""
    words = lab.ask("coder", "Hello?").text
    there, back = (
        ("cellar", "attic") if lab.ps().thing("coder").home.startswith("attic") else ("attic", "cellar")
    )
    began, pid = lines(lab, "coder"), pid_of(lab, "coordinator")
    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(lab.move, "coder", "RAM", there)
        until(lambda: lines(lab, "coder") >= began + step or moving.done())
        os.kill(pid, signal.SIGKILL)
        moving.exception(180)
    until(lambda: at_home(lab, "coder"))
    thing = lab.ps().thing("coder")
    assert thing.home in {f"{there}:RAM", f"{back}:RAM"}
    assert f"{thing.home.partition(':')[0]}:SSD ready" in thing.copies
    assert lab.ask("coder", "Hello?").text == words
    lab.move("coder", "RAM", "attic")


def test_two_ups_at_once_make_one_lab(machines, parts, folder_of):
    """Two processes of people who both say `up` find one lab, whole."""
    file = write_file(folder_of("twice"), parts, name="twice")
    file.write_text(without_shards(file.read_text(encoding="utf-8")), encoding="utf-8")
    try:
        with ThreadPoolExecutor(2) as pool:
            labs = [made.result(240) for made in [pool.submit(raise_lab, str(file)) for _ in range(2)]]
        pids = [{member.name: member.pid for member in lab.ps().members} for lab in labs]
        assert pids[0] == pids[1]
        assert labs[0].ask("philosopher", "Hello?").text == labs[1].ask("philosopher", "Hello?").text
        before = pids[0]
        assert {member.name: member.pid for member in raise_lab(str(file)).ps().members} == before
    finally:
        lower_lab("twice", address=machines.address)


@pytest.mark.soak
def test_down_in_the_middle_of_up_leaves_nothing_half_done(machines, parts, folder_of):
    """`down` while adapters load ends the lab; `up` after it is a whole lab again."""
    file = str(write_file(folder_of("broken-off"), parts, name="broken-off"))
    seen = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        rising = pool.submit(raise_lab, file, say=lambda _: seen.set())
        assert seen.wait(120)
        lower_lab("broken-off", address=machines.address)
        assert rising.exception(120) is None or isinstance(rising.exception(), TierceError)
    try:
        assert raise_lab(file).ask("coder", "Hello?").text
    finally:
        lower_lab("broken-off", address=machines.address)


def test_a_node_that_is_not_there_is_told_and_comes_up_when_it_joins(machines, parts, folder_of):
    """`up` says how the missing node joins and brings up the rest; once it has joined, its part comes up."""
    file = write_file(folder_of("late"), parts, name="late")
    text = file.read_text(encoding="utf-8").replace("cellar", "loft").replace(" rag: [war],", "")
    without_war = [line for line in text.splitlines() if not line.startswith("  war:")]
    file.write_text("\n".join(without_war), encoding="utf-8")
    told = []
    try:
        lab = raise_lab(str(file), say=told.append)
        problem = next(step.problem for step in told if step.what == "node loft")
        assert "TRC041" in problem
        assert f"ray start --address={machines.address} --labels=tierce/node=loft" in problem
        assert lab.ask("coder", "Hello?").text
        with pytest.raises(TierceError, match="loft"):
            lab.ask("artist", "Hello?")
        machines.add_node("loft")
        until(lambda: answers(lab, "artist") not in {"TRC001", "TRC041", "TRC031"}, 120)
        assert lab.ask("artist", "When does the baker knead?").citations
    finally:
        lower_lab("late", address=machines.address)
        if "loft" in machines.sees():
            machines.kill_raylet("loft")
