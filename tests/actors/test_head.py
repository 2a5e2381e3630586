"""A Ray head of our own that is killed: what comes back, what is left, and what a stopped one leaves."""

import json
import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from actors import head as heads
from placement.errors import WorldError
from tests.shell import environment, session

pytestmark = pytest.mark.ray

#: Makes, or finds, a detached actor, and prints its pid, what it was made with, and how often it was asked.
ASK = """
import json, os, sys, ray
ray.init(address=sys.argv[1], namespace="lab", log_to_driver=False)

class Counting:
    def __init__(self, word):
        self.word, self.count = word, 0

    def ask(self):
        self.count += 1
        return os.getpid(), self.word, self.count

if sys.argv[2] == "make":
    options = {"name": "counting", "lifetime": "detached", "num_cpus": 0, "max_restarts": -1}
    selector = {"tierce/node": "desk"}
    ray.remote(Counting).options(**options, label_selector=selector).remote("ours")
actor = ray.get_actor("counting")
print(json.dumps(ray.get(actor.ask.remote(), timeout=60)))
"""


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A TIERCE_HOME that is not the user's."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def lab(home):
    """The name of a lab; what is left of its head in the end is stopped."""
    yield "killed"
    if (left := heads.recorded("killed")) is not None:
        heads.stop(left)
    assert not (home / "killed/gcs").exists()


def start(lab, **settings):
    """Start the head of a lab."""
    with heads.alone(lab):
        return heads.start(lab, node="desk", store_nbytes=100 << 20, dashboard=False, **settings)


def ask(head, home, what="find"):
    """Ask the detached actor on a head, in a driver process of its own; None if there is no such actor."""
    command = [sys.executable, "-c", ASK, head.address, what]
    env = environment(home, **head.environment())
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True, timeout=120)
    if "Failed to look up actor" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def kill(pids):
    """Kill -9 processes, and wait until they have ended."""
    processes = [psutil.Process(pid) for pid in pids]
    for process in processes:
        process.kill()
    assert psutil.wait_procs(processes, timeout=20)[1] == []


@contextmanager
def a_raylet_that_had_joined(address):
    """A process that Ray takes for a second raylet of the head at `address`, on this machine."""
    argv = ["/ray/raylet", "-c", "input()", f"--gcs-address={address}"]
    with subprocess.Popen(argv, executable=sys.executable, stdin=subprocess.PIPE) as process:
        yield
        process.communicate(b"\n")


def test_a_killed_head_goes_on_with_its_actors(lab, home):
    """Kill -9 of all its processes: it starts again at its address, and its detached actor is born again."""
    head = start(lab)
    assert start(lab) == head, "a head that runs is not started twice"
    old, word, count = ask(head, home, "make")
    assert (word, count) == ("ours", 1)
    kill(session(head.pid))
    assert heads.heads() == []
    with a_raylet_that_had_joined(head.address):
        again = start(lab)
    assert (again.address, again.token_path) == (head.address, head.token_path)
    assert heads.heads() == [again]
    new, word, count = ask(again, home)
    assert (word, count) == ("ours", 1)
    assert new != old
    assert heads.stop(again) > 0
    assert session(again.pid) == []
    assert not Path(again.temp_dir).exists()


@pytest.mark.soak
def test_what_a_dead_leader_left_is_ended_before_its_head_goes_on(lab, home):
    """Kill -9 of `ray start` alone leaves a GCS and a raylet: the next start ends them first."""
    head = start(lab)
    ask(head, home, "make")
    kill([head.pid])
    left = session(head.pid)
    assert left
    again = start(lab)
    assert again.address == head.address
    assert [pid for pid in left if psutil.pid_exists(pid)] == []
    assert ask(again, home)[1] == "ours"


@pytest.mark.soak
def test_a_stopped_head_starts_clean(lab, home):
    """`stop` of a head that has died forgets what it knew: the next one has another token and no actor."""
    head = start(lab)
    ask(head, home, "make")
    token = Path(head.token_path).read_text(encoding="utf-8")
    kill(session(head.pid))
    assert heads.stop(heads.recorded(lab)) == 0
    assert heads.recorded(lab) is None
    again = start(lab)
    assert Path(again.token_path).read_text(encoding="utf-8") != token
    assert ask(again, home) is None


@pytest.mark.soak
def test_a_head_that_cannot_go_on_says_why_and_can_be_tried_again(lab, home):
    """With its port taken, it raises TRC042 and keeps what it knew; with the port free, it goes on."""
    head = start(lab)
    ask(head, home, "make")
    kill(session(head.pid))
    with closing(listening(head.address)), pytest.raises(WorldError) as refused:
        start(lab)
    assert refused.value.code == "TRC042"
    assert ask(start(lab), home)[1] == "ours"


def listening(address):
    """A socket that takes a head's port on every address."""
    return socket.create_server(("", int(address.rpartition(":")[2])))


def test_the_join_command_carries_label_and_auth_but_no_token(monkeypatch):
    """The line to type on another machine names the token's file, quotes it, and sizes the object store."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/etc/our lab/token")
    line = heads.join_command("10.0.0.5:6379", "attic", store_nbytes=1 << 30)
    assert line == (
        "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH='/etc/our lab/token' RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=1 "
        "ray start --address=10.0.0.5:6379 --labels=tierce/node=attic --object-store-memory=1073741824"
    )
    assert "for its own machine alone" in heads.join_command("127.0.0.2:6379", "attic")


def test_a_head_is_up_once_ray_has_said_its_address(tmp_path, monkeypatch):
    """Output that is cut off behind its first words is waited for: the address comes after them."""
    log, whole = tmp_path / "head.log", "Ray runtime started.\n ray start --address='127.0.0.2:1'\n"
    log.write_text("Ray runtime started.\n")
    monkeypatch.setattr(heads.time, "sleep", lambda _: log.write_text(f"{whole}{heads.SAID_ALL} forever"))
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert whole in heads._wait_until_up(child.pid, log)  # noqa: SLF001 -- its caller starts a real Ray
    finally:
        child.communicate(b"\n")
