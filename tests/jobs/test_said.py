"""Roles said on the line against a real lab: added, changed, exported, kept over a restart, removed."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.shell import COMMAND, ROOT, environment, tierce
from tests.tiny_lab import build_parts, without_shards, write_file

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Where the labs of this module are recorded."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """The base, the adapters and the documents."""
    return build_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def file(tmp_path_factory, parts) -> Path:
    """The file of a tiny lab without shards."""
    file = write_file(tmp_path_factory.mktemp("lab"), parts, name="said")
    file.write_text(without_shards(file.read_text(encoding="utf-8")), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def up(home, file, parts):
    """How the lab came up with a role more; it is taken down when the module ends."""
    critic = ["--role", "critic", "--lora-path", str(parts / "coder"), "--location", "SSD", "--idle", "1min"]
    done = tierce(home, "up", str(file), *critic)
    assert done.returncode == 0, done.stderr
    yield done
    tierce(home, "down")


def things(home: Path) -> dict[str, dict]:
    """The rows of `ps --json` by name."""
    return {thing["name"]: thing for thing in json.loads(tierce(home, "ps", "--json").stdout)["things"]}


def wait_for(home: Path, name: str, tier: str) -> None:
    """Ask until a thing is in `tier`; the test's timeout bounds it."""
    while things(home)[name]["tier"] != tier:
        pass


def exported(home: Path) -> str:
    """What `export` writes."""
    done = tierce(home, "export")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("up")
def test_a_role_of_the_line_answers(home):
    """A role that came up by `up FILE --role` is a row, and answers."""
    assert things(home)["critic"]["tier"] == "SSD"
    asked = tierce(home, "ask", "critic", "What fell?", "--max-tokens", "4", "--json")
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["end"]["version"].startswith("critic@")


@pytest.mark.usefixtures("up")
def test_a_role_is_added_changed_and_removed(home, parts):
    """`add-role`, `update-role` and `remove-role` change what `ps` and `export` show, at once."""
    path = str(parts / "artist")
    added = tierce(home, "add-role", "poet", "--lora-path", path, "--location", "SSD", "--idle", "2min")
    assert added.returncode == 0, added.stderr
    refused = tierce(home, "update-role", "poet", "--set", "unload.to=VRAM")
    assert refused.returncode == 2
    assert "VRAM is above its home SSD" in refused.stderr
    changed = tierce(home, "update-role", "poet", "--location", "RAM")
    assert changed.returncode == 0, changed.stderr
    assert things(home)["poet"]["tier"] == "RAM"
    assert "2min" in exported(home).partition("poet")[2]
    assert tierce(home, "remove-role", "poet").returncode == 0
    assert "poet" not in things(home)
    assert "poet" not in exported(home)


@pytest.mark.usefixtures("up")
def test_warm_brings_up_and_unload_sends_home(home):
    """After `warm` a cold role comes to VRAM unasked; after `unload` it leaves it again."""
    assert tierce(home, "warm", "coder").returncode == 0
    wait_for(home, "coder", "VRAM(cpu)")
    assert tierce(home, "unload", "coder").returncode == 0
    wait_for(home, "coder", "RAM")


@pytest.mark.usefixtures("up")
def test_what_was_said_survives_down_and_up_until_it_is_forgotten(home, file):
    """A role of the line is there after a restart; after `down --forget` only the file counts."""
    assert tierce(home, "down").returncode == 0
    assert tierce(home, "up", str(file)).returncode == 0
    assert "critic" in things(home)
    assert tierce(home, "down", "--forget").returncode == 0
    assert tierce(home, "up", str(file)).returncode == 0
    assert "critic" not in things(home)


@pytest.mark.soak
def test_a_lab_of_one_role_needs_no_file(parts, tmp_path):
    """In a folder without a file, `up --role` makes a lab of that role alone."""
    role = ["--role", "critic", "--lora-path", str(parts / "coder"), "--location", "RAM", "--node", "desk"]
    done = subprocess.run(
        [*COMMAND, "up", *role],
        cwd=tmp_path,
        env=environment(tmp_path, PYTHONPATH=str(ROOT)),
        check=False,
        capture_output=True,
        text=True,
    )
    try:
        assert done.returncode == 0, done.stderr
        assert set(things(tmp_path)) == {"critic"}
    finally:
        tierce(tmp_path, "down")
