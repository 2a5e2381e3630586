"""One Ray head of our own for all modules here, and on it one small lab and one stage, which they share.

Fault tests bring up labs of their own.
"""

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

os.environ["RAY_AUTH_MODE"] = "token"  # before Ray is imported; the head's own token follows

import ray

from actors import head as heads
from actors.client import Lab
from actors.joining import attach, end_actors
from tests.actors.stage import Stage
from tests.labs import labs
from tests.tiny_lab import build_parts, write_file


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Iterator[Path]:
    """A TIERCE_HOME that is not the user's."""
    folder = tmp_path_factory.mktemp("home")
    before = os.environ.get("TIERCE_HOME")
    os.environ["TIERCE_HOME"] = str(folder)
    yield folder
    os.environ.pop("TIERCE_HOME")
    if before is not None:
        os.environ["TIERCE_HOME"] = before


@pytest.fixture(scope="session")
def cluster(home: Path) -> Iterator[heads.Head]:  # noqa: ARG001 -- set before the head writes to it
    """A Ray head on loopback that this process has joined."""
    head = heads.start("tests", node="desk", store_nbytes=200 << 20, dashboard=False)
    try:
        attach(head.address)
        yield head
    finally:
        ray.shutdown()
        heads.stop(head)


@pytest.fixture(scope="session")
def parts(tmp_path_factory) -> Path:
    """A random base, three adapters and the documents of two shards."""
    return build_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory) -> Callable[[str], Path]:
    """Return the folder that holds the file and the SSD tier of a lab, by its name."""
    return functools.cache(tmp_path_factory.mktemp)


@pytest.fixture(scope="module")
def make_lab(cluster, parts, folder_of) -> Iterator[Callable[..., Lab]]:
    """Bring up a lab of a name; all that a module brought up are taken down in its end.

    The file is the small lab's, unless `text` gives another.
    """
    with labs(cluster.address, parts, folder_of, write_file) as make:
        yield make


@pytest.fixture(scope="session")
def lab(cluster, parts, folder_of) -> Iterator[Lab]:
    """The lab that tests share: they leave each role where its file says, and take back what they said."""
    with labs(cluster.address, parts, folder_of, write_file) as make:
        yield make("shared")


@pytest.fixture(scope="session")
def theatre(cluster, parts) -> Iterator[Stage]:  # noqa: ARG001 -- the Ray that it stands on
    """A stage without a play."""
    stage = Stage(parts)
    yield stage
    end_actors(stage.lab)


@pytest.fixture
def stage(theatre) -> Iterator[Stage]:
    """A stage for the play of one test."""
    yield theatre
    theatre.clear()


@pytest.fixture
def kill() -> Callable[[Lab, str], int]:
    """Kill -9 the process of an actor, by the pid that the lab itself reports; return the pid."""

    def kill_member(lab: Lab, name: str) -> int:
        pid = next(member.pid for member in lab.ps().members if member.name == name)
        process = psutil.Process(pid)
        process.kill()
        process.wait(timeout=10)
        return pid

    return kill_member
