"""A role's adapter directory that changes under a running lab: drift, and a new version by `update`."""

import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import ray
from safetensors.torch import load_file, save_file

from actors.errors import UnknownName
from actors.proposing import drift_of, plan_lab
from placement.errors import TierceError
from tests.tiny_lab import build_adapter
from tests.waiting import until

pytestmark = pytest.mark.ray

SAYS = {"persona": "You play.", "generation": {"temperature": 0, "max_tokens": 12}}


@pytest.fixture(scope="module")
def scripts(parts) -> tuple[Path, Path]:
    """Two adapters that no file names."""
    return tuple(build_adapter(parts / "base", parts / f"script{seed}", seed=seed) for seed in (21, 22))


def put(script: Path, folder: Path) -> None:
    """Have a directory hold another adapter."""
    shutil.copytree(script, folder, dirs_exist_ok=True)


@pytest.fixture
def folder(tmp_path, scripts) -> Path:
    """The directory of the player's adapter: the first script."""
    put(scripts[0], tmp_path / "player")
    return tmp_path / "player"


@pytest.fixture
def player(lab, folder):
    """A role at home in RAM, added for one test."""
    yield lab.add_role("player", lora_path=str(folder), location="RAM", **SAYS)
    if any(thing.name == "player" for thing in lab.ps().things):
        lab.remove_role("player")


def version(lab) -> str:
    """Return the version with which the player answers now."""
    return lab.ask("player", "Who?").version.partition("@")[2]


def left_of(folder_of, name: str) -> list[Path]:
    """Return the images on the disk of a version."""
    return list((folder_of("shared") / "ssd" / "adapters").glob(f"player@{name}*"))


def adapters_astray(file: str) -> list[tuple[str, str, str]]:
    """Return the roles whose directory holds another version: which one, and which one serves."""
    return [(one.name, one.file, one.world) for one in drift_of(file) if one.field == "adapter"]


def test_a_new_version_serves_and_the_one_before_is_gone(lab, player, folder, scripts, folder_of):
    """The answer names it, an update with nothing new says so, and no byte of the old one is left."""
    same = lab.update("player")
    assert (same.is_new, same.after) == (False, player.version)
    words = lab.ask("player", "Who?").text
    put(scripts[1], folder)
    told = lab.update("player")
    assert (told.before, told.thing.version, told.thing.home) == (player.version, told.after, "desk:RAM")
    assert version(lab) == told.after != player.version
    assert lab.ask("player", "Who?").text != words
    until(lambda: not left_of(folder_of, player.version))
    story = " ".join(line.text for line in lab.story("player"))
    assert f"it serves in place of player@{player.version}" in story
    assert "asked for by an update" in story


def test_a_directory_that_changed_is_drift_until_it_is_updated(lab, player, folder, scripts, folder_of):
    """`diff` and `plan` name both versions and what to do; nothing else of the lab changes."""
    file = str(folder_of("shared") / "cluster.yaml")
    assert adapters_astray(file) == []
    put(scripts[1], folder)
    ((name, there, serving),) = adapters_astray(file)
    assert (name, serving) == ("player", player.version)
    assert any("`tierce update player` takes it" in said for said in plan_lab(file).said)
    assert version(lab) == player.version
    assert lab.update("player").after == there
    assert adapters_astray(file) == []


def test_an_answer_in_flight_ends_on_the_version_that_it_began_with(lab, player, folder, scripts, folder_of):
    """Meanwhile new asks are answered by the new one; the old one goes after its last answer."""
    put(scripts[1], folder)
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(lab.ask, "player", "Go on.", max_tokens=250)
        until(lambda: lab.ps().thing("player").leases or long.done())
        told = lab.update("player")
        assert version(lab) == told.after
        assert long.result(120).version == f"player@{player.version}"
    until(lambda: not left_of(folder_of, player.version))


def whisper(folder: Path) -> None:
    """Make the numbers of an adapter so small that only an engine can tell that it changes nothing."""
    file = folder / "adapter_model.safetensors"
    save_file({name: weight * 1e-30 for name, weight in load_file(file).items()}, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "code"),
    [(lambda folder: (folder / "adapter_config.json").unlink(), "ADP001"), (whisper, "ADP037")],
    ids=["at its intake", "in its engine"],
)
def test_a_broken_directory_leaves_the_old_version_serving(lab, player, folder, folder_of, spoil, code):
    """The error says what is wrong, the story that the old one serves on; of the broken one nothing stays."""
    words = lab.ask("player", "Who?").text
    spoil(folder)
    with pytest.raises(TierceError) as refused:
        lab.update("player")
    assert refused.value.code == code
    assert lab.ask("player", "Who?").text == words
    assert version(lab) == player.version
    assert any(f"player@{player.version} serves on" in line.text for line in lab.story("player"))
    until(lambda: left_of(folder_of, "") == left_of(folder_of, player.version))


@pytest.mark.soak
def test_what_was_ordered_of_the_old_version_holds_for_the_new_one(lab, player, folder, scripts, kill):
    """Home and pin go over, and outlive the coordinator."""
    assert player.home == "desk:RAM"
    lab.move("player", to="SSD")
    lab.pin("player")
    put(scripts[1], folder)
    thing = lab.update("player").thing
    assert (thing.home, thing.pinned) == ("desk:SSD", True)
    epoch = lab.ps().epoch
    kill(lab, "coordinator")
    until(lambda: lab.ps().epoch > epoch)
    again = lab.ps().thing("player")
    assert (again.version, again.home, again.pinned) == (thing.version, "desk:SSD", True)


@pytest.mark.soak
def test_an_update_that_is_cut_off_leaves_the_old_version_serving(lab, player, folder, scripts, folder_of):
    """Kill -9 of the coordinator while the engine takes the new one: it is swept up, and can be had again."""
    put(scripts[1], folder)
    pids = {member.name: member.pid for member in lab.ps().members}
    epoch, engine = lab.ps().epoch, psutil.Process(pids["engine:small"])
    with ThreadPoolExecutor(1) as pool:
        engine.suspend()
        try:
            updating = pool.submit(
                ray.get, ray.get_actor("coordinator", namespace=lab.name).update.remote("player")
            )
            until(lambda: len(left_of(folder_of, "")) > len(left_of(folder_of, player.version)))
            os.kill(pids["coordinator"], signal.SIGKILL)
        finally:
            engine.resume()
        assert updating.exception(120) is not None
    until(lambda: lab.ps().epoch > epoch)
    assert version(lab) == player.version
    until(lambda: left_of(folder_of, "") == left_of(folder_of, player.version))
    told = lab.update("player")
    assert version(lab) == told.after != player.version


def test_a_role_that_is_not_in_the_lab_cannot_be_updated(lab):
    """The names of those that are there are told."""
    with pytest.raises(UnknownName, match="no role 'nobody'") as unknown:
        lab.update("nobody")
    assert "philosopher" in unknown.value.hint
