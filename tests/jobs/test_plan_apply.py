"""Plan, apply, edit, diff, apply: the command line against one real lab that goes on answering."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.shell import tierce
from tests.tiny_lab import build_adapter, build_parts, write_file
from tests.waiting import until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

CRITIC = "  critic: {{lora_path: {}, location: RAM, persona: You judge., generation: {{temperature: 0}}}}\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Where the labs of this module are recorded."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """The base, the adapters and the documents; a critic that the file does not name at first."""
    parts = build_parts(tmp_path_factory.mktemp("parts"))
    build_adapter(parts / "base", parts / "critic", seed=11)
    return parts


@pytest.fixture(scope="module")
def file(tmp_path_factory, parts) -> Path:
    """The file of a tiny lab, which the tests edit one after another."""
    return write_file(tmp_path_factory.mktemp("lab"), parts, name="planned")


@pytest.fixture(scope="module")
def up(home, file):
    """The lab, brought up by a plan that was kept; it is taken down when the module ends."""
    kept = file.parent / "first.json"
    planned = tierce(home, "plan", str(file), "--out", str(kept), "--detailed-exitcode")
    applied = tierce(home, "apply", str(kept))
    yield planned, applied
    tierce(home, "down")


def edited(file: Path, *pairs: tuple[str, str]):
    """Put each second text where the first stands in the file."""
    text = file.read_text(encoding="utf-8")
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new, 1)
    file.write_text(text, encoding="utf-8")


def plan(home, file: Path) -> dict:
    """The plan of a file as plain data."""
    return json.loads(tierce(home, "plan", str(file), "--json").stdout)


def steps(told: dict) -> list[str]:
    """The copies and drops of a plan, without versions."""
    return [
        f"{step['verb']} {step['item'].partition('@')[0]} "
        + (f"{step['source']} -> {step['target']}" if step["verb"] == "copy" else step["place"])
        for step in told["steps"]
    ]


def things(home) -> dict[str, dict]:
    """The rows of `ps --json` by name."""
    return {thing["name"]: thing for thing in json.loads(tierce(home, "ps", "--json").stdout)["things"]}


def pids(home) -> dict[str, int]:
    """The process of each actor by name."""
    return {each["name"]: each["pid"] for each in json.loads(tierce(home, "ps", "--json").stdout)["members"]}


def test_a_kept_plan_brings_the_lab_up_as_it_said(up, home, file):
    """Without a lab the plan is all that `up` does; once done, there is nothing left to do and no drift."""
    planned, applied = up
    assert planned.returncode == 2, planned.stderr
    assert "copy coder@" in planned.stdout
    assert applied.returncode == 0, applied.stderr
    assert {name: thing["tier"] for name, thing in things(home).items()} == {
        "philosopher": "VRAM(cpu)", "coder": "RAM", "artist": "SSD", "war": "RAM", "bread": "SSD",
    }  # fmt: skip
    again = tierce(home, "plan", str(file), "--detailed-exitcode")
    assert (again.returncode, "Nothing to do" in again.stdout) == (0, True), again.stdout
    same = tierce(home, "diff", str(file), "--detailed-exitcode")
    assert (same.returncode, "the lab is as" in same.stdout) == (0, True), same.stdout


@pytest.mark.usefixtures("up")
def test_an_edited_file_is_applied_without_disturbing_the_others(home, file, parts):
    """A role comes, one is re-homed, a shard goes to the disk; nobody else begins anew."""
    before, words = pids(home), tierce(home, "ask", "philosopher", "Why?").stdout
    edited(
        file,
        ("/coder, location: RAM", "/coder, location: SSD"),
        ("war: {location: RAM", "war: {location: SSD"),
        ("rag:\n  war:", f"{CRITIC.format(parts / 'critic')}rag:\n  war:"),
    )
    differs = tierce(home, "diff", str(file), "--detailed-exitcode")
    assert differs.returncode == 2
    assert "role critic\n    - there\n" in differs.stdout
    told = plan(home, file)
    assert sorted(steps(told)) == [
        "copy critic desk:SSD -> desk:RAM",
        "copy war#shard desk:RAM -> desk:SSD",
        "drop coder desk:RAM",
        "drop war#shard desk:RAM",
    ]
    assert [f"{act['sign']} {act['actor']}" for act in told["actors"]] == ["+ role:critic"]
    applied = tierce(home, "apply", str(file))
    assert applied.returncode == 0, applied.stderr
    now = things(home)
    assert {name: now[name]["tier"] for name in ("critic", "coder", "war")} == {
        "critic": "RAM", "coder": "SSD", "war": "SSD",
    }  # fmt: skip
    after = pids(home)
    assert {name: after[name] for name in before} == before
    assert tierce(home, "ask", "philosopher", "Why?").stdout == words
    assert tierce(home, "plan", str(file), "--detailed-exitcode").returncode == 0


@pytest.mark.usefixtures("up")
def test_what_was_said_since_is_drift_until_only_the_file_counts(home, file):
    """A move is shown by `diff`, stands when the file is applied, and ends with `apply --forget`."""
    tierce(home, "move", "artist", "--to", "RAM")
    drift = tierce(home, "diff", str(file)).stdout
    assert "role artist home\n    - desk:SSD\n    + desk:RAM\n" in drift
    assert tierce(home, "plan", str(file), "--detailed-exitcode").returncode == 0
    done = tierce(home, "apply", str(file), "--forget")
    assert done.returncode == 0, done.stderr
    assert things(home)["artist"]["home"] == "desk:SSD"
    assert tierce(home, "diff", str(file), "--detailed-exitcode").returncode == 0


@pytest.mark.usefixtures("up")
def test_a_kept_plan_is_refused_when_the_lab_has_changed_since(home, file):
    """The plan of another moment is not carried out: what differs is told, and nothing is done."""
    kept = file.parent / "kept.json"
    edited(file, ("/coder, location: SSD", "/coder, location: RAM"))
    tierce(home, "plan", str(file), "--out", str(kept))
    tierce(home, "apply", str(file))
    refused = tierce(home, "apply", str(kept))
    assert refused.returncode == 1
    assert "the lab has changed since" in refused.stderr
    assert "no longer: + copy coder@" in refused.stderr


@pytest.mark.usefixtures("up")
def test_a_killed_coordinator_goes_on_from_the_file_that_was_applied(home, file):
    """After kill -9 the lab is that of the edited file, and there is nothing to do."""
    epoch = json.loads(tierce(home, "ps", "--json").stdout)["epoch"]
    os.kill(pids(home)["coordinator"], signal.SIGKILL)

    def reborn() -> bool:
        told = tierce(home, "ps", "--json")
        return told.returncode == 0 and json.loads(told.stdout)["epoch"] > epoch

    until(reborn)
    again = tierce(home, "plan", str(file), "--detailed-exitcode")
    assert again.returncode == 0, again.stdout
    assert "critic" in things(home)


@pytest.mark.usefixtures("up")
def test_what_the_file_no_longer_has_is_removed(home, file, parts):
    """A role and a shard leave with their actors; the others are as they were."""
    edited(
        file,
        (CRITIC.format(parts / "critic"), ""),
        (", rag: [bread]", ""),
        ("  bread:", "  # bread:"),
    )
    told = plan(home, file)
    assert {f"{act['sign']} {act['actor']}" for act in told["actors"]} == {
        "- role:critic", "- shard:bread", "~ role:artist",
    }  # fmt: skip
    done = tierce(home, "apply", str(file))
    assert done.returncode == 0, done.stderr
    assert set(things(home)) == {"philosopher", "coder", "artist", "war"}
    assert not {"role:critic", "shard:bread"} & set(pids(home))
    assert tierce(home, "plan", str(file), "--detailed-exitcode").returncode == 0


@pytest.mark.usefixtures("up")
def test_what_cannot_change_while_the_lab_runs_is_refused_with_its_numbers_shown(home, file):
    """Another number of slots needs another engine: the plan says so, and apply does nothing at all."""
    edited(file, ("slots: 3", "slots: 2"))
    planned = tierce(home, "plan", str(file), "--detailed-exitcode")
    assert planned.returncode == 1
    assert "base small: slots cannot change while it runs [TRC048]" in planned.stdout
    assert tierce(home, "apply", str(file)).returncode == 1
    edited(file, ("slots: 2", "slots: 3"))
    assert tierce(home, "plan", str(file), "--detailed-exitcode").returncode == 0
