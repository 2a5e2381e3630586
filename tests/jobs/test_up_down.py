"""The command line against a real lab on a Ray of its own, from `up` to `down`."""

import importlib.util
import json
import os
import signal
import subprocess
from pathlib import Path

import nbformat
import psutil
import pytest

from tests.shell import COMMAND, ROOT, environment, session, tierce
from tests.tiny_lab import build_parts, write_file

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Where the labs of this module are recorded."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """The file of a tiny lab."""
    parts = build_parts(tmp_path_factory.mktemp("parts"))
    return write_file(tmp_path_factory.mktemp("lab"), parts, name="shell")


@pytest.fixture(scope="module")
def up(home, file):
    """What `up` said; the lab is taken down when the module ends, if no test did it."""
    done = tierce(home, "up", str(file))
    yield done
    tierce(home, "down")


def session_of(home: Path) -> list[psutil.Process]:
    """The processes of the Ray head that `up` recorded."""
    pid = json.loads((home / "shell/head.json").read_text(encoding="utf-8"))["pid"]
    return [psutil.Process(each) for each in session(pid)]


def members(home: Path) -> dict[str, int]:
    """The process of each actor by name."""
    return {each["name"]: each["pid"] for each in json.loads(tierce(home, "ps", "--json").stdout)["members"]}


def things(home: Path) -> dict[str, dict]:
    """The rows of `ps --json` by name."""
    return {thing["name"]: thing for thing in json.loads(tierce(home, "ps", "--json").stdout)["things"]}


def test_up_brings_each_item_to_the_tier_that_its_file_says(up, home):
    """After `up`, each role and shard is in the tier of its `location`; stderr told bytes and pace."""
    assert up.returncode == 0, up.stderr
    assert {name: thing["tier"] for name, thing in things(home).items()} == {
        "philosopher": "VRAM(cpu)",
        "coder": "RAM",
        "artist": "SSD",
        "war": "RAM",
        "bread": "SSD",
    }
    assert "B/s" in up.stderr
    assert "philosopher" in up.stdout


@pytest.mark.usefixtures("up")
def test_only_the_owner_reads_the_token(home):
    """The token that lets processes into the lab's Ray is readable by its owner alone."""
    assert (home / "shell/token").stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("up")
def test_who_has_no_token_is_not_let_in(home, tmp_path):
    """The lab's Ray goes by a loopback address, and who has not its token gets exit code 4."""
    address = json.loads((home / "shell/head.json").read_text(encoding="utf-8"))["address"]
    assert address.startswith("127.")
    stranger = tierce(tmp_path, "ps", "--address", address)
    assert stranger.returncode == 4
    assert f"error: Ray at {address} cannot be joined" in stranger.stderr
    assert "[TRC044]" in stranger.stderr
    assert "Traceback" not in stranger.stderr


@pytest.mark.usefixtures("up")
def test_ask_answers_with_sources(home):
    """`ask` gives text on stdout, its sources below, and on stderr the version that spoke."""
    done = tierce(home, "ask", "artist", "When does the baker knead?", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["text"]
    assert {citation["shard"] for citation in said["found"]["citations"]} == {"bread"}
    assert said["end"]["version"].startswith("artist@")


@pytest.mark.usefixtures("up")
def test_move_gives_an_item_a_new_home(home):
    """After `move`, `ps` shows the new tier, and `story` tells who ordered it."""
    assert tierce(home, "move", "coder", "--to", "disk").returncode == 0
    assert things(home)["coder"]["tier"] == "SSD"
    assert "move to desk:SSD ordered by the user" in tierce(home, "story", "coder").stdout
    assert json.loads(tierce(home, "move", "coder", "--to", "RAM", "--json").stdout)["item"]["tier"] == "RAM"


@pytest.mark.usefixtures("up")
def test_describe_ends_with_why_it_is_here(home):
    """A role that was asked for says so of its seat; a wrong name is a user error that says who was meant."""
    told = tierce(home, "describe", "artist").stdout
    assert told.index("\nEvents\n") < told.index("\nWhy here\n")
    why = json.loads(tierce(home, "describe", "artist", "--json").stdout)["why"]
    rules = {here["place"]: here["rule"] for here in why["here"]}
    assert rules["desk:VRAM(cpu)"] == "asked for by the user"
    assert rules["desk:SSD"] == "its durable copy, and its home by the file"
    missed = tierce(home, "describe", "artis")
    assert missed.returncode == 2
    assert "did you mean 'artist'?" in missed.stderr


@pytest.mark.usefixtures("up")
def test_pin_and_unpin_show_in_the_row(home):
    """A pinned role says so in its row, and no longer when it is unpinned."""
    assert json.loads(tierce(home, "pin", "coder", "--json").stdout)["item"]["pinned"]
    assert not json.loads(tierce(home, "unpin", "coder", "--json").stdout)["item"]["pinned"]


@pytest.mark.usefixtures("up")
def test_an_unknown_role_is_a_user_error(home):
    """Asking whom the file does not name exits 2 with one line, and no traceback."""
    done = tierce(home, "ask", "smith", "hm?")
    assert done.returncode == 2
    assert "error: lab shell has no role 'smith' [TRC001]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("up")
def test_ps_wide_shows_processes_that_live(home):
    """Every actor of `ps --wide` is a process of the lab's Ray, and its resident bytes are told."""
    members = json.loads(tierce(home, "ps", "--wide", "--json").stdout)["members"]
    ours = {process.pid for process in session_of(home)}
    assert {member["pid"] for member in members} <= ours
    assert all(member["rss"] > 10 << 20 for member in members)
    kinds = {member["name"].partition(":")[0] for member in members}
    assert kinds == {"coordinator", "store", "engine", "embedder", "shard", "role"}


@pytest.mark.usefixtures("up")
def test_ctrl_c_ends_the_decoding_in_the_engine(home):
    """Ctrl-C during an answer exits 130, and the engine holds no lease of it any more."""
    asking = subprocess.Popen(
        [*COMMAND, "ask", "coder", "count", "--max-tokens", "400", "--temperature", "1", "--seed", "3"],
        cwd=ROOT,
        env=environment(home, PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert asking.stdout.read(1)
    asking.send_signal(signal.SIGINT)
    _, said = asking.communicate()
    assert asking.returncode == 130, said.decode()
    assert things(home)["coder"]["leases"] == 0


@pytest.fixture
def execute(home, monkeypatch):
    """The function of notebooks/execute.py, where `tierce.connect()` finds the lab of this module."""
    ours = environment(home, PYTHONPATH=str(ROOT))
    for name in set(os.environ) - set(ours):
        monkeypatch.delenv(name)
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("execute", ROOT / "notebooks/execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.execute


@pytest.mark.usefixtures("up")
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(execute, path):
    """Against a real lab every cell runs, and each cell that shows something in the tree does so now."""
    ran = execute(path)
    kept = nbformat.read(path, as_version=4)
    shows = [bool(cell.get("outputs")) for cell in kept.cells]
    assert [bool(cell.get("outputs")) for cell in ran.cells] == shows
    assert "philosopher@" in nbformat.writes(ran)


def test_up_again_changes_nothing(up, home, file):
    """A second `up` of the same file finds the lab up and leaves it as it is."""
    assert up.returncode == 0
    before = members(home)
    assert tierce(home, "up", str(file)).returncode == 0
    assert members(home) == before


@pytest.mark.usefixtures("up")
def test_down_leaves_no_process_and_no_lab(home):
    """`down` ends exactly the processes of its Ray head; after it there is no lab to talk to."""
    ours = session_of(home)
    done = tierce(home, "down")
    assert done.returncode == 0, done.stderr
    assert [process for process in ours if process.is_running()] == []
    asked = tierce(home, "ps")
    assert asked.returncode == 4
    assert "no lab runs on this machine [TRC040]" in asked.stderr
