"""Roles added, changed and removed while a lab runs: the file, the line and the code are equal in effect."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray

from actors.errors import NotAllowed, UnknownName
from actors.launch import lower_lab, raise_lab
from actors.store import Origin
from placement.config import load
from placement.errors import TierceError, UserError
from tests.tiny_lab import build_adapter, write_file
from tests.waiting import until

pytestmark = pytest.mark.ray

SPOKEN = {"persona": "You judge.", "generation": {"temperature": 0, "max_tokens": 12}}


@pytest.fixture(scope="module")
def critic(parts) -> str:
    """An adapter that no file names."""
    return str(build_adapter(parts / "base", parts / "critic", seed=11))


@pytest.fixture
def spoken(lab, critic):
    """The role critic, added in code for one test."""
    yield lab.add_role("critic", lora_path=critic, location="RAM", rag=["war"], **SPOKEN)
    if any(thing.name == "critic" for thing in lab.ps().things):
        lab.remove_role("critic")


def killed_coordinator(lab):
    """Kill -9 the coordinator and wait until another one answers."""
    old = lab.ps().epoch
    pid = next(member.pid for member in lab.ps().members if member.name == "coordinator")
    os.kill(pid, signal.SIGKILL)
    until(lambda: lab.ps().epoch > old)


def test_an_added_role_answers_and_is_where_it_was_said(lab, spoken):
    """`add_role` brings a role home and it answers with its own adapter, cited shards included."""
    assert (spoken.home, spoken.tier) == ("desk:RAM", "RAM")
    answer = lab.ask("critic", "When did the wall fall?")
    assert answer.version == f"critic@{spoken.version}"
    assert answer.citations
    assert answer.text != lab.ask("coder", "When did the wall fall?").text


def test_a_killed_coordinator_knows_what_was_said(lab, spoken):
    """A role added in code is there and answers the same after kill -9 of the coordinator."""
    words = lab.ask("critic", "Well?").text
    killed_coordinator(lab)
    assert lab.ask("critic", "Well?").text == words
    assert lab.ps().thing("critic").home == spoken.home


def test_said_twice_in_the_same_words_is_said_once(lab, spoken, critic):
    """Adding the very same role again changes nothing; another one under its name is refused."""
    again = lab.add_role("critic", lora_path=critic, location="RAM", rag=["war"], **SPOKEN)
    assert (again.version, again.home) == (spoken.version, spoken.home)
    with pytest.raises(UserError) as taken:
        lab.add_role("critic", lora_path=critic, location="SSD")
    assert taken.value.code == "TRC047"


@pytest.mark.usefixtures("spoken")
def test_the_export_is_a_file_that_says_what_the_lab_is_like(lab, critic):
    """Added roles, changed fields, moves, pins and removals stand in the export, which loads as a file."""
    before = lab.export()
    lab.update_role("coder", persona="You count.")
    lab.move("artist", to="RAM")
    lab.pin("artist")
    told = load(lab.export(), {})
    assert (told.roles["critic"].lora_path, str(told.roles["critic"].location)) == (critic, "RAM")
    assert told.roles["coder"].persona == "You count."
    assert (str(told.roles["artist"].location), told.roles["artist"].pin) == ("RAM", True)
    lab.unpin("artist")
    lab.move("artist", to="SSD")
    lab.update_role("coder", persona="You code.")
    assert load(lab.export(), {}) == load(before, {})


def test_a_role_with_a_broken_adapter_is_not_added(lab, tmp_path):
    """What cannot serve is refused with the adapter's own error, and nothing has changed."""
    before = lab.export()
    with pytest.raises(TierceError) as refused:
        lab.add_role("critic", lora_path=str(tmp_path), location="RAM")
    assert refused.value.code.startswith("ADP")
    assert lab.export() == before
    with pytest.raises(UnknownName):
        lab.ask("critic", "Are you there?")


def test_a_wrong_field_gets_the_words_of_the_file(lab, critic):
    """A mistake in code is told as in a file: the place, the value and what was meant."""
    with pytest.raises(UserError, match=r"roles\.critic\.location: unknown tier 'vrm'; did you mean"):
        lab.add_role("critic", lora_path=critic, location="vrm")


def test_a_removed_role_is_gone_for_good(lab, spoken):
    """After `remove_role` nobody answers under the name, no copy is left, and a new coordinator agrees."""
    lab.ask("critic", "Hello?")
    assert lab.remove_role("critic").version == spoken.version
    with pytest.raises(UnknownName):
        lab.ask("critic", "Hello?")
    killed_coordinator(lab)
    assert "critic" not in {thing.name for thing in lab.ps().things}


def test_a_role_that_others_consult_is_not_removed(lab, critic):
    """A removal that would leave the lab's file wrong is refused in the file's words; nobody is lost."""
    lab.add_role("critic", lora_path=critic, location="RAM", activated_by=["user", "artist"])
    lab.update_role("artist", consults=["critic"])
    with pytest.raises(UserError, match="critic"):
        lab.remove_role("critic")
    lab.update_role("artist", consults=None)
    lab.remove_role("critic")


def test_another_adapter_takes_over_while_the_old_one_answers(lab, critic, parts):
    """New asks take the new version, the answer in flight ends on the version that it began with."""
    old = lab.ask("philosopher", "Who?").version
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(lab.ask, "philosopher", "Go on.", max_tokens=250)
        until(lambda: lab.ps().thing("philosopher").leases or long.done())
        lab.update_role("philosopher", lora_path=critic)
        new = lab.ask("philosopher", "Who?").version
        assert long.result(120).version == old
    assert new != old
    until(lambda: lab.ps().thing("philosopher").version == new.partition("@")[2])
    lab.update_role("philosopher", lora_path=str(parts / "philosopher"))
    assert lab.ask("philosopher", "Who?").version == old


def test_a_changed_activated_by_counts_for_the_next_ask(lab):
    """A change that touches only the role's actor needs no new adapter and is true when the call returns."""
    version = lab.ask("coder", "Hello?").version
    lab.update_role("coder", activated_by=["philosopher"])
    with pytest.raises(NotAllowed, match="philosopher"):
        lab.ask("coder", "Hello?")
    lab.update_role("coder", activated_by=None)
    assert lab.ask("coder", "Hello?").version == version


@pytest.mark.soak
def test_up_with_a_role_and_what_of_it_outlives_down(parts, critic, cluster, tmp_path):
    """`up` with a role adds it, and moves it when said otherwise.

    It is there again after `down` and `up`, is the file's once the file names it, and is forgotten by
    `down --forget`.
    """
    file = write_file(tmp_path, parts, name="spoken")
    role = {"lora_path": critic, "location": "RAM", **SPOKEN}
    try:
        raise_lab(str(file), role=("critic", role))
        lab = raise_lab(str(file), role=("critic", role | {"location": "SSD"}))
        assert lab.ps().thing("critic").home == "desk:SSD"
        lower_lab("spoken", address=cluster.address)
        assert raise_lab(str(file)).ps().thing("critic").home == "desk:SSD"
        lower_lab("spoken", address=cluster.address)
        text = file.read_text(encoding="utf-8")
        entry = f"\n  critic: {{lora_path: {critic}, location: RAM, persona: You differ.}}\nrag:\n"
        file.write_text(text.replace("\nrag:\n", entry), encoding="utf-8")
        assert raise_lab(str(file)).ps().thing("critic").home == "desk:RAM"
        lower_lab("spoken", address=cluster.address, forget=True)
        file.write_text(text, encoding="utf-8")
        assert "critic" not in {thing.name for thing in raise_lab(str(file)).ps().things}
    finally:
        lower_lab("spoken", address=cluster.address, forget=True)


def test_what_a_killed_coordinator_left_of_a_replaced_version_is_dropped(lab, critic, folder_of):
    """An image that no role has any more, because its role has another, does not stay on the disk."""
    store = ray.get_actor("store:desk", namespace=lab.name)
    base = str(Path(critic).parent / "base")
    item, _, _ = ray.get(store.prepare.remote(Origin("coder", critic, base, 8)), timeout=60)
    image = folder_of(lab.name) / "ssd" / "adapters" / f"{item}.safetensors"
    assert image.exists()
    killed_coordinator(lab)
    until(lambda: not image.exists())
    assert lab.ask("coder", "Hello?").version != item
