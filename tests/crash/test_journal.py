"""kill -9 at every crash point of the journal: each call is there whole or not at all, in order."""

import sqlite3
from dataclasses import replace

import pytest

from actors.journal import Activated, Failure, Journal, Version
from placement.config.edits import Edit
from tests.crash.points import crash

CODER = Version("coder@1", "coder", "d1", "i1", 10, "desk", "/adapters/coder", "in place", network=False)
CRITIC = Version("critic@1", "critic", "d2", "i2", 20, "desk", "https://far/critic", "fetched", network=True)
STEPS = (
    lambda journal: journal.set_fact("lab", "f1"),
    lambda journal: journal.next_epoch(),
    lambda journal: journal.fail(Failure("coder", "ADP001", "broken", "mend it")),
    lambda journal: journal.register(CODER),
    lambda journal: journal.register(CRITIC),
    lambda journal: journal.edit(Edit("coder", {"location": "RAM"}, None), 1.0),
    lambda journal: journal.order("coder@1", "home", ["attic", "RAM", ""]),
    lambda journal: journal.order("coder@1", "pin", value=True),
    lambda journal: journal.begin("1.1", "coder@1", "copy", 2.0),
    lambda journal: journal.activated(Activated(2.5, "coder@1", "RAM", 10, 0.2, 0.1)),
    lambda journal: journal.end("1.1", "coder@1", "copied", 3.0),
    lambda journal: journal.begin("1.2", "coder@1", "drop", 4.0),
    lambda journal: journal.settle("coder@1", "attic"),
    lambda journal: journal.hand_over("coder@1", "coder@2"),
    lambda journal: journal.register(CODER.at("attic")),
    lambda journal: journal.order("coder@1", "pin", value=True),
    lambda journal: journal.register(replace(CODER, item="coder@3", digest="d3")),
    lambda journal: journal.forget_role("critic"),
    lambda journal: journal.next_epoch(),
    lambda journal: journal.forget_lab(said=True),
)
TABLES = ("facts", "versions", "edits", "failures", "orders", "intents", "story", "activations")
#: as version 1 of the layout left it
OLD = """
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE versions (item TEXT PRIMARY KEY, role TEXT NOT NULL);
CREATE TABLE orders (item TEXT NOT NULL, kind TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (item, kind));
INSERT INTO facts VALUES ('epoch', '7');
INSERT INTO versions VALUES ('coder@0', 'coder');
INSERT INTO orders VALUES ('coder@0', 'pin', 'true');
PRAGMA user_version = 1;
"""


def content(path):
    """Return all rows of all tables of a sound database, as the next owner finds them."""
    journal = Journal.open(path)
    journal.close()
    database = sqlite3.connect(path)
    try:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [database.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES]  # noqa: S608
    finally:
        database.close()


def scene(path, first=0):
    """Return the scene that opens a journal and takes the steps."""

    def play(done):
        journal = Journal.open(path)
        done()
        for step in STEPS[first:]:
            step(journal)
            done()

    return play


@pytest.fixture(scope="module")
def after(tmp_path_factory):
    """Return what the journal holds after each number of steps."""
    folder = tmp_path_factory.mktemp("whole")
    found = []
    for count in range(len(STEPS) + 1):
        path = folder / f"{count}.db"
        journal = Journal.open(path)
        for step in STEPS[:count]:
            step(journal)
        journal.close()
        found.append(content(path))
    return found


@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
def test_a_journal_killed_anywhere_holds_what_it_acknowledged(ram, after, torn, passed):
    """At each point the file holds all steps that returned and at most the one in flight, whole."""
    points = crash(scene(ram / "whole.db")).points
    assert len(points) > 10 * len(STEPS)
    passed(points)
    for at in range(len(points)):
        path = ram / f"{at}.db"
        run = crash(scene(path), at, torn=torn)
        assert run.killed
        steps = max(0, run.done - 1)
        found = content(path)
        assert found in after[steps : steps + 2], f"point {at} ({points[at]}), {steps} steps acknowledged"


def test_a_journal_killed_anywhere_counts_its_epoch_up(ram, passed):
    """No epoch is given twice, whatever the moment at which the one before was counted."""

    def count(path):
        def play(done):
            journal = Journal.open(path)
            for _ in range(3):
                journal.next_epoch()
                done()

        return play

    points = crash(count(ram / "whole.db")).points
    assert len(points) > 80
    passed(points)
    for at in range(len(points)):
        path = ram / f"{at}.db"
        run = crash(count(path), at)
        assert run.killed
        journal = Journal.open(path)
        assert journal.next_epoch() > run.done
        journal.close()


def test_an_older_journal_killed_anywhere_is_taken_over_whole(ram, passed):
    """A layout that is brought up to date keeps epoch and orders, at whichever point it was cut off."""

    def older(path):
        database = sqlite3.connect(path)
        database.executescript(OLD)
        database.close()
        return lambda _done: Journal.open(path)

    points = crash(older(ram / "whole.db")).points
    assert len(points) > 60
    passed(points)
    for at in range(len(points)):
        path = ram / f"{at}.db"
        assert crash(older(path), at).killed
        journal = Journal.open(path)
        told = (journal.fact("epoch"), journal.orders(), journal.versions())
        journal.close()
        assert told == ("7", [("coder@0", "pin", True)], []), f"point {at} ({points[at]})"
