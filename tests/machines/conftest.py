"""Three raylets on this machine, in one Ray of our own, and one lab over the three for tests to share.

Their labels are tierce/node=desk, attic and cellar. This process is a driver on the desk, which also has the
GCS; a test may kill the other two, and gives back what it has killed.
"""

import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ["RAY_AUTH_MODE"] = "token"  # before Ray is imported; the cluster's own token follows

import ray

from actors import head as heads
from actors.client import Lab, attach
from tests.labs import labs
from tests.machines.three import SETTINGS, Machines, write_file
from tests.tiny_lab import build_parts


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    """A TIERCE_HOME that is not the user's."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def machines(home) -> Iterator[Machines]:
    """Three raylets that this process has joined; they and their files are gone in the end."""
    folder = tempfile.mkdtemp(prefix="tierce-")  # short: the paths of Ray's sockets may have 107 bytes
    token = home / "token"
    heads.write_secret(token, "0" * 64)
    ours = {
        "TIERCE_HOME": str(home),
        "RAY_TMPDIR": folder,  # else Ray tells every process on this machine to join us
        "RAY_AUTH_TOKEN_PATH": str(token),
        **SETTINGS,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ours.items():
            patch.setenv(name, value)
        machines = Machines()
        try:
            for label in ("desk", "attic", "cellar"):
                machines.add_node(label)
            attach(machines.address)
            yield machines
        finally:
            ray.shutdown()
            machines.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def parts(tmp_path_factory) -> Path:
    """A random base, three adapters and the documents of two shards."""
    return build_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory) -> Callable[[str], Path]:
    """Return the folder that holds the file and the SSD tiers of a lab, by its name."""
    return functools.cache(tmp_path_factory.mktemp)


@pytest.fixture(scope="session")
def lab(machines, parts, folder_of) -> Iterator[Lab]:
    """A lab over the three nodes that tests share: they leave each role where its file says, or say so."""
    with labs(machines.address, parts, folder_of, write_file) as make:
        yield make("three")
