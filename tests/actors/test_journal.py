"""The journal keeps what it was told, in order, across a kill."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from actors.journal import Activated, Failure, Journal, Version
from placement.config.edits import Edit
from placement.state import Place
from placement.tiers import Tier

VERSION = Version(
    item="coder@0123456789ab",
    role="coder",
    digest="0" * 64,
    image_digest="1" * 64,
    nbytes=1000,
    node="desk",
    source="/adapters/coder",
    kept="in place",
    network=False,
)


@pytest.fixture
def journal(tmp_path):
    """An open journal in a folder of its own."""
    journal = Journal.open(tmp_path / "lab" / "journal.db")
    yield journal
    journal.close()


def test_epochs_count_up_across_openings(tmp_path):
    """Each opening that asks for an epoch gets a higher one."""
    epochs = []
    for _ in range(3):
        journal = Journal.open(tmp_path / "journal.db")
        epochs.append(journal.next_epoch())
        journal.close()
    assert epochs == [1, 2, 3]


def test_a_new_version_of_a_role_replaces_the_old_one(journal):
    """A role has one version: registering the next forgets the last."""
    journal.register(VERSION)
    newer = replace(VERSION, item="coder@ffffffffffff", digest="f" * 64, nbytes=1001)
    journal.register(newer)
    assert journal.versions() == [newer]


def test_what_was_ordered_of_a_version_holds_for_the_one_that_replaces_it(journal):
    """Home and pin go over with the registration; those of other roles stay where they are."""
    journal.register(VERSION)
    journal.order(VERSION.item, "home", ["attic", "RAM", ""])
    journal.order(VERSION.item, "pin", True)
    journal.order("artist@1", "pin", True)
    newer = replace(VERSION, item="coder@ffffffffffff", digest="f" * 64)
    journal.register(newer)
    assert journal.homes() == {newer.item: Place("attic", Tier.RAM)}
    assert journal.pins() == {newer.item: True, "artist@1": True}
    journal.register(VERSION)
    assert journal.pins() == {VERSION.item: True, "artist@1": True}


def test_registering_a_version_forgets_the_failure_of_its_role(journal):
    """A role that failed and was mended is not failed any more."""
    journal.fail(Failure("coder", "ADP003", "only pickled weights", "convert them"))
    journal.fail(Failure("artist", "ADP001", "no config", ""))
    journal.register(VERSION)
    assert [failure.role for failure in journal.failures()] == ["artist"]


def test_an_intent_stays_open_until_it_is_ended(journal):
    """What was begun and not ended is what a crash cut off."""
    journal.begin("1.1", "a", "copy", 1.0)
    journal.begin("1.2", "b", "drop", 2.0)
    journal.end("1.1", "a", "copied", 3.0)
    assert journal.open_intents() == [("1.2", "b", "drop")]


def test_a_story_is_told_oldest_first_and_of_one_item_only(journal):
    """The story of an item holds its own lines, in the order in which they were written."""
    journal.begin("1.1", "a", "copy to RAM", 1.0)
    journal.tell("b", "something else", 1.5)
    journal.end("1.1", "a", "copied", 2.0)
    assert [line.text for line in journal.story("a")] == ["copy to RAM", "copied"]
    assert [line.text for line in journal.story("a", last=1)] == ["copied"]


def test_the_last_order_of_a_kind_wins(journal):
    """Two moves of an item leave one order, its pin another."""
    journal.order("a", "home", ["desk", "RAM", ""])
    journal.order("a", "home", ["desk", "SSD", ""])
    journal.order("a", "pin", True)
    assert journal.orders() == [("a", "home", ["desk", "SSD", ""]), ("a", "pin", True)]


def test_forgetting_a_lab_keeps_its_story_and_its_epoch(journal):
    """After `down` nothing is registered, and the history and the fence are still there."""
    journal.next_epoch()
    journal.set_fact("up", "fingerprint")
    journal.register(VERSION)
    journal.order("a", "pin", True)
    journal.activated(Activated(1.0, "a", "SSD", 10, 0.1, 0.01))
    journal.tell("a", "was here", 1.0)
    journal.forget_lab(said=True)
    assert (journal.versions(), journal.orders(), journal.activations(), journal.fact("up")) == (
        [],
        [],
        [],
        None,
    )
    assert [line.text for line in journal.story("a")] == ["was here"]
    assert journal.next_epoch() == 2


def test_what_was_said_and_fetched_outlives_a_lab_that_is_taken_down(journal):
    """Edits, orders and the versions of addresses stay; what `up` finds again is forgotten."""
    journal.register(VERSION)
    journal.register(replace(VERSION, item="far@0123456789ab", role="far", network=True))
    journal.order("coder@0123456789ab", "home", ["desk", "RAM", ""])
    journal.edit(Edit("critic", {"lora_path": "/critic", "location": "RAM"}, None), 1.0)
    journal.edit(Edit("artist", None, {"location": "SSD"}), 2.0)
    journal.forget_lab(said=False)
    assert [version.role for version in journal.versions()] == ["far"]
    assert journal.homes() == {"coder@0123456789ab": Place("desk", Tier.RAM)}
    assert journal.edits() == [
        Edit("critic", {"lora_path": "/critic", "location": "RAM"}, None),
        Edit("artist", None, {"location": "SSD"}),
    ]


def test_a_journal_of_an_older_layout_is_filled_anew(tmp_path):
    """What `up` finds again is dropped with its old columns; the story and the epoch stay."""
    path = tmp_path / "journal.db"
    journal = Journal.open(path)
    journal.next_epoch()
    journal.tell("a", "was here", 1.0)
    journal.close()
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "DROP TABLE versions; CREATE TABLE versions (item TEXT PRIMARY KEY, role TEXT NOT NULL); "
            "PRAGMA user_version = 1;"
        )
    journal = Journal.open(path)
    journal.register(VERSION)
    assert (journal.versions(), journal.next_epoch()) == ([VERSION], 2)
    assert [line.text for line in journal.story("a")] == ["was here"]
    journal.close()


def test_what_was_committed_survives_a_kill(tmp_path):
    """A process that dies right after `begin` returned leaves the intent in the journal."""
    path = tmp_path / "journal.db"
    code = (
        "import os, sys; from pathlib import Path; from actors.journal import Journal\n"
        "journal = Journal.open(Path(sys.argv[1])); journal.next_epoch()\n"
        "journal.begin('1.1', 'a', 'copy', 1.0)\n"
        "os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        check=False,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert done.returncode == -9
    journal = Journal.open(path)
    assert journal.open_intents() == [("1.1", "a", "copy")]
    assert journal.next_epoch() == 2
    journal.close()


@pytest.mark.parametrize("older", [False, True])
def test_the_journal_is_for_its_owner_alone(tmp_path, older):
    """It holds the file's secrets: it and what SQLite puts beside it have mode 0600, an older one too."""
    path = tmp_path / "journal.db"
    before = os.umask(0o022)
    try:
        if older:
            path.touch(mode=0o644)
        with closing(Journal.open(path)) as journal:
            journal.set_fact("file", "secret")
            modes = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"journal.db": 0o600, "journal.db-shm": 0o600, "journal.db-wal": 0o600}


def test_what_is_forgotten_is_not_in_the_file_any_more(tmp_path):
    """A secret that was forgotten cannot be read from the pages that held it."""
    path = tmp_path / "journal.db"
    with closing(Journal.open(path)) as journal:
        journal.set_fact("file", "s3cret" * 100)
        journal.forget_lab(said=True)
    assert b"s3cret" not in path.read_bytes()


@pytest.mark.parametrize("killed", [False, True])
def test_a_glance_sees_all_and_changes_nothing(tmp_path, killed):
    """Read, the file stays to the bit; what a killed owner had not merged yet is seen too."""
    path = tmp_path / "journal.db"
    if killed:
        write = f"from actors.journal import *; import os; j = Journal.open(Path({str(path)!r})); "
        code = f"{write}j.order('coder@1', 'pin', True); os._exit(0)"
        subprocess.run([sys.executable, "-c", code], check=True)
    else:
        with closing(Journal.open(path)) as journal:
            journal.order("coder@1", "pin", value=True)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir() if each.suffix != ".db-shm"}
    with closing(Journal.glance(path)) as journal:
        assert journal.pins() == {"coder@1": True}
        journal.forget_lab(said=True)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir() if each.suffix != ".db-shm"} == before


def test_a_glance_at_an_older_layout_leaves_its_tables(tmp_path):
    """What `up` would fill anew is not seen, and is still in the file."""
    path = tmp_path / "journal.db"
    with closing(Journal.open(path)) as journal:
        journal.fail(Failure("coder", "ADP001", "no config", ""))
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 1")
        database.commit()
    with closing(Journal.glance(path)) as journal:
        assert journal.failures() == []
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM failures").fetchone() == (1,)
