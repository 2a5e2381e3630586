"""A base with two engines, one on each of two nodes: a role answers from both, and outlives either."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from placement.errors import TierceError
from tests.labs import labs
from tests.machines.test_faults import at_home, pid_of
from tests.waiting import until

pytestmark = pytest.mark.ray

BOTH = {"desk:VRAM(cpu) ready", "attic:VRAM(cpu) ready"}
FILE = """
lab: {name}
nodes:
  desk:  {{vram: 64MiB, ram: 64MiB, ssd: {{path: {root}/desk, budget: 1GiB}}}}
  attic: {{vram: 64MiB, ram: 64MiB, ssd: {{path: {root}/attic, budget: 1GiB}}}}
bases:
  small:
    {{model: {parts}/base, device: cpu, slots: 2, max_rank: 8, kv_cache: 8MiB, replicas: {{min: 2, max: 2}}}}
roles:
  philosopher:
    {{lora_path: {parts}/philosopher, location: VRAM, generation: {{temperature: 0, max_tokens: 12}}}}
  coder:
    {{lora_path: {parts}/coder, location: VRAM, generation: {{temperature: 0, max_tokens: 12}}}}
  artist:
    {{lora_path: {parts}/artist, location: SSD, generation: {{temperature: 0, max_tokens: 12}}}}
"""


def write_file(root, parts, *, name):
    """Write the cluster.yaml of a lab with two engines of one base."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "cluster.yaml").write_text(FILE.format(name=name, root=root, parts=parts), encoding="utf-8")


@pytest.fixture(scope="module")
def lab(machines, parts, folder_of):
    """A lab with two engines of one base."""
    with labs(machines.address, parts, folder_of, write_file) as make:
        yield make("engines")


def copies(lab, name):
    """Return where a role is in VRAM, and in which phase."""
    return {copy for copy in lab.ps().thing(name).copies if ":VRAM" in copy}


def epoch_of(lab):
    """Return the epoch of the coordinator that answers; 0 while none does."""
    try:
        return lab.ps().epoch
    except TierceError:
        return 0


def asked_until(lab, role, done):
    """Ask a role again and again; return what it said."""
    said = set()
    while not done.is_set():
        said.add(lab.ask(role, "Hello?", deadline_s=60.0).text)
    return said


def test_each_engine_has_a_name_a_node_and_roles_of_its_own(lab):
    """Roles at home in VRAM are dealt to the engines, and `ps` shows both."""
    where = {member.name: member.node for member in lab.ps().members}
    assert (where["engine:small"], where["engine:small#2"]) == ("desk", "attic")
    until(lambda: at_home(lab, "philosopher") and at_home(lab, "coder"))
    assert copies(lab, "philosopher") == {"desk:VRAM(cpu) ready"}
    assert copies(lab, "coder") == {"attic:VRAM(cpu) ready"}
    assert lab.ask("philosopher", "Hello?").text != lab.ask("coder", "Hello?").text


def test_a_cold_role_is_answered_by_one_of_the_engines(lab):
    """It is brought to one of them, and not to both."""
    assert lab.ask("artist", "Sing.").end.activation.source == "SSD"
    assert len(copies(lab, "artist")) == 1


def test_a_hot_role_answers_from_both_engines_and_outlives_one(lab):
    """While many ask it, it gets a further copy; when its first engine is killed, the other answers."""
    words = lab.ask("philosopher", "Hello?").text
    done = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        crowd = [pool.submit(asked_until, lab, "philosopher", done) for _ in range(8)]
        until(lambda: copies(lab, "philosopher") == BOTH or any(each.done() for each in crowd))
        done.set()
    assert {text for each in crowd for text in each.result()} == {words}
    assert copies(lab, "philosopher") == BOTH
    old = pid_of(lab, "engine:small")
    os.kill(old, signal.SIGKILL)
    answer = lab.ask("philosopher", "Hello?")
    assert (answer.text, answer.end.activation) == (words, None)
    until(lambda: pid_of(lab, "engine:small") not in {0, old} and at_home(lab, "philosopher"))
    assert lab.ask("philosopher", "Hello?").text == words


@pytest.mark.soak
def test_a_role_goes_on_in_the_other_engine_when_its_only_one_is_killed(lab):
    """It is brought up there, before its own engine is back."""
    words = lab.ask("coder", "Hello?").text
    until(lambda: copies(lab, "coder") == {"attic:VRAM(cpu) ready"})
    os.kill(pid_of(lab, "engine:small#2"), signal.SIGKILL)
    assert lab.ask("coder", "Hello?").text == words
    until(lambda: at_home(lab, "coder"))


@pytest.mark.soak
def test_a_new_coordinator_finds_both_engines(lab):
    """It learns from their reports who is where, and each role stays at home in its own."""
    words = {role: lab.ask(role, "Hello?").text for role in ("philosopher", "coder")}
    epoch = lab.ps().epoch
    os.kill(pid_of(lab, "coordinator"), signal.SIGKILL)
    until(lambda: epoch_of(lab) > epoch)
    until(lambda: at_home(lab, "philosopher") and at_home(lab, "coder"))
    homes = {role: lab.ps().thing(role).home for role in words}
    assert homes == {"philosopher": "desk:VRAM(cpu)", "coder": "attic:VRAM(cpu)"}
    assert {role: lab.ask(role, "Hello?").text for role in words} == words


@pytest.mark.soak
def test_a_role_is_moved_to_the_engine_of_a_node(lab):
    """`move ROLE VRAM --node` names the engine."""
    thing = lab.move("coder", to="VRAM", node="desk")
    assert (thing.home, copies(lab, "coder")) == ("desk:VRAM(cpu)", {"desk:VRAM(cpu) ready"})
    thing = lab.move("coder", to="VRAM", node="attic")
    assert (thing.home, copies(lab, "coder")) == ("attic:VRAM(cpu)", {"attic:VRAM(cpu) ready"})
