"""A lab over three hosts that only a network joins: asks and moves, cut cables, dead hosts, a dead head.

Each command is a process of its own on the desk, whose raylet a driver finds. Root only; `make soak`.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.machines.three import write_file
from tests.tiny_lab import build_parts

SCRIPT = Path(__file__).with_name("netns.sh")
ADDRESS = "10.77.0.10:6379"
COMMAND = ["python", "-c", "import tierce; tierce.main()"]
HOSTS = ("desk", "attic", "cellar")
#: The longest that one command may take; what a test expects sooner, it says.
COMMAND_S = 180.0

pytestmark = [
    pytest.mark.soak,
    pytest.mark.ray,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2"),
]


def netns(*words, within_s=COMMAND_S):
    """Run the script to its end; return what it said and how it ended."""
    env = os.environ | {"PYTHON": sys.executable}
    return subprocess.run(
        [SCRIPT, *words], env=env, check=False, capture_output=True, text=True, timeout=within_s
    )


def on(*words):
    """Run the script, which must succeed; return its output."""
    done = netns(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tierce(*words, within_s=COMMAND_S):
    """Type a command of Tierce on the desk."""
    return netns("exec", "desk", *COMMAND, *words, "--address", ADDRESS, "--json", within_s=within_s)


def said(*words, within_s=COMMAND_S):
    """Type a command that must succeed; return its JSON."""
    done = tierce(*words, within_s=within_s)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def things():
    """The rows of `ps` by name."""
    return {thing["name"]: thing for thing in said("ps")["things"]}


def words_of(role):
    """What a role answers to the same greedy question."""
    return said("ask", role, "Hello?")["text"]


def comes_true(true, within_s):
    """Poll a condition of the world under a deadline; return the seconds that it took."""
    began_s = time.monotonic()
    while not true():
        assert time.monotonic() - began_s < within_s, "the condition did not come true in time"
        time.sleep(0.5)
    return time.monotonic() - began_s


def answers(role):
    """Tell whether a role answers."""
    return tierce("ask", role, "Hello?").returncode == 0


def at_home(name):
    """Tell whether `ps` answers and shows a thing ready at its home."""
    done = tierce("ps")
    if done.returncode != 0:
        return False
    thing = next(thing for thing in json.loads(done.stdout)["things"] if thing["name"] == name)
    return f"{thing['home']} ready" in thing["copies"]


def pids(host):
    """The processes of a host."""
    return {int(pid) for pid in on("pids", host).split()}


@pytest.fixture(scope="module", autouse=True)
def up(tmp_path_factory):
    """The three hosts, and the lab that `up` brought up on them; in the end all of it is gone."""
    try:
        on("up")
        parts = build_parts(tmp_path_factory.mktemp("parts"))
        yield said("up", str(write_file(tmp_path_factory.mktemp("lab"), parts, name="net")), within_s=300)
    finally:
        on("down")


@pytest.fixture(autouse=True)
def healed(up):  # noqa: ARG001 -- the hosts are there before, and after
    """Leave to the next test three hosts that run, whatever became of this one."""
    yield
    for host in HOSTS:
        on("heal", host)
        on("start", host)


def test_each_actor_runs_on_the_host_that_the_file_names():
    """The pid of each actor is a process of its host's namespace."""
    for member in said("ps", "--wide")["members"]:
        assert member["pid"] in pids(member["node"]), member["name"]


def test_up_again_changes_nothing():
    """A second `up` of the hosts leaves every process of Ray as it is."""
    before = {host: pids(host) for host in HOSTS}
    on("up")
    assert {host: pids(host) & before[host] for host in before} == before


def test_roles_answer_across_hosts():
    """A role of each host is answered by the engine on the desk, with sources of the shard on the cellar."""
    assert words_of("philosopher")
    assert words_of("coder")
    found = said("ask", "artist", "When does the baker knead?")["found"]
    assert {citation["shard"] for citation in found["citations"]} == {"bread"}


def test_an_adapter_moves_to_another_host_and_says_the_same():
    """`move --node` brings an adapter to another host's RAM, and its durable copy with it; and back."""
    words = words_of("coder")
    for node in ("cellar", "attic"):
        said("move", "coder", "--to", "RAM", "--node", node)
        assert things()["coder"]["home"] == f"{node}:RAM"
        assert f"{node}:SSD ready" in things()["coder"]["copies"]
        assert words_of("coder") == words


def test_a_short_cut_of_a_cable_costs_nothing_but_time():
    """Two seconds without a network: what was asked meanwhile is answered, and no node is lost."""
    asking = subprocess.Popen(
        [SCRIPT, "exec", "desk", *COMMAND, "ask", "artist", "Hello?", "--address", ADDRESS],
        env=os.environ | {"PYTHON": sys.executable},
        stdout=subprocess.PIPE,
    )
    on("cut", "cellar")
    time.sleep(2)  # the length of the fault itself
    on("heal", "cellar")
    assert asking.communicate(timeout=COMMAND_S)[0]
    assert asking.returncode == 0


def test_a_cut_cable_hurts_only_what_lies_behind_it():
    """A role behind the cut ends in a typed error, the others answer; healed, its host's things return."""
    words = words_of("artist")
    on("cut", "cellar")
    lost = tierce("ask", "artist", "Hello?")
    assert lost.returncode != 0
    assert '"code": "TRC' in lost.stdout
    assert words_of("philosopher")
    on("heal", "cellar")
    comes_true(lambda: not pids("cellar"), within_s=240)  # Ray held it for dead: its raylet ends by itself
    on("start", "cellar")
    comes_true(lambda: answers("artist"), within_s=120)
    assert words_of("artist") == words


def test_a_killed_host_comes_back_with_its_things():
    """Kill -9 of all of a host: with its Ray started again, its adapter and its shard are home again."""
    words = words_of("coder")
    on("kill", "attic")
    assert not pids("attic")
    on("start", "attic")
    comes_true(lambda: at_home("coder") and at_home("war"), within_s=120)
    assert words_of("coder") == words


def test_a_killed_head_resumes_with_what_people_ordered():
    """Kill -9 of the head's host: GCS, coordinator and engine come back, and the ordered home holds."""
    said("move", "artist", "--to", "RAM")
    words, epoch = words_of("artist"), said("ps")["epoch"]
    on("kill", "desk")
    on("start", "desk")
    comes_true(lambda: at_home("artist") and at_home("philosopher"), within_s=180)
    assert things()["artist"]["home"] == "cellar:RAM"
    assert said("ps")["epoch"] > epoch
    assert words_of("artist") == words
