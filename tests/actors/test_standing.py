"""Which file a lab is made from, and what of the words since stands beside it; no Ray is needed to know."""

from pathlib import Path

import pytest

from actors.journal import Journal
from actors.said import Orders, recalled, settle, standing_of, take_over
from actors.spec import as_text, from_text, spec_of
from placement.config.edits import Edit, entry

FILE = """
lab: standing
nodes: {desk: {vram: 1GiB, ram: 64MiB}}
bases: {small: {model: ./base}}
roles:
  coder: {lora_path: ./coder, location: RAM, persona: "${VOICE}"}
rag:
  papers: {location: network, api: http, url: "http://desk", api_key: "${KEY}"}
"""


def spec(text=FILE):
    """The spec of a file in a folder that does not exist: nothing that it names is needed."""
    return spec_of(
        text, file="cluster.yaml", root="/nowhere", home="", env={"VOICE": "You code.", "KEY": "k"}
    )


@pytest.fixture
def journal(tmp_path: Path):
    """A journal of its own."""
    journal = Journal.open(tmp_path / "journal.db")
    yield journal
    journal.close()


def test_a_spec_that_was_written_down_is_read_again_whole():
    """Lab, personas, secrets of the environment and the fingerprint come back, with no file at hand."""
    told = spec()
    assert from_text(as_text(told)) == told
    key = from_text(as_text(told)).lab.rag["papers"].api_key
    assert key is not None
    assert key.get_secret_value() == "k"


def test_the_applied_file_is_recalled_by_whoever_was_hired_with_the_first(journal):
    """A reborn coordinator goes on from the last file applied; one hired with another file does not."""
    first = spec()
    second, third = spec(FILE.replace("RAM,", "SSD,")), spec(FILE.replace("RAM,", "VRAM,"))
    assert recalled(first, journal) == first
    take_over(second, first, journal)
    take_over(third, second, journal)
    assert recalled(first, journal).fingerprint == third.fingerprint
    assert recalled(second, journal) == second
    assert journal.fact("lab") == third.fingerprint


def test_what_was_said_and_ordered_stands_while_the_file_says_the_same(journal):
    """An edit, a move and a pin of an unchanged entry stand; nothing is written by asking."""
    settle(spec(), standing_of(spec(), journal), journal, lambda _: None)
    was = entry(FILE, (), "coder")
    journal.edit(Edit("coder", {**was, "location": "SSD"}, was), 1.0)
    journal.order("coder@1", "pin", value=True)
    stands = standing_of(spec(), journal)
    assert str(stands.spec.lab.roles["coder"].location) == "SSD"
    assert stands.disordered == ()
    assert Orders(journal, stands.disordered).pins() == {"coder@1": True}


@pytest.mark.parametrize("forget", [False, True])
def test_the_newer_word_of_the_file_overtakes(journal, forget):
    """Where the entry was changed since, or with `forget`, neither edits nor orders of it stand."""
    settle(spec(), standing_of(spec(), journal), journal, lambda _: None)
    was = entry(FILE, (), "coder")
    journal.edit(Edit("coder", {**was, "location": "SSD"}, was), 1.0)
    journal.order("coder@1", "pin", value=True)
    now = spec() if forget else spec(FILE.replace("RAM,", "VRAM,"))
    stands = standing_of(now, journal, forget=forget)
    assert (stands.edits, stands.overtaken) == ([], ("coder",))
    assert stands.spec.lab.roles["coder"].location is now.lab.roles["coder"].location
    assert Orders(journal, stands.disordered).pins() == {}
    assert journal.pins() == {"coder@1": True}
    settle(now, stands, journal, lambda _: None)
    assert (journal.pins(), journal.edits()) == ({}, [])


def test_what_was_said_and_no_longer_fits_the_file_is_told(journal):
    """A role on a base that the file does not have any more is left out, and a trouble says why."""
    settle(spec(), standing_of(spec(), journal), journal, lambda _: None)
    journal.edit(Edit("critic", {"lora_path": "./critic", "location": "RAM", "base": "large"}, None), 1.0)
    stands = standing_of(spec(), journal)
    (trouble,) = stands.troubles()
    assert (trouble.what, trouble.code) == ("what was said of role critic", "CFG030")
    assert "critic" not in stands.spec.lab.roles
    steps = []
    settle(spec(), stands, journal, steps.append)
    assert [step.what for step in steps if step.problem] == ["role critic, as it was said"]
    assert "does not fit the file" in journal.story("critic")[-1].text
