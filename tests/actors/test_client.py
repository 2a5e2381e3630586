"""Which Ray a command joins, and what a path in a call means: as the plain rules that decide it."""

import pytest

from actors.aio import _absolute
from actors.head import Head
from actors.joining import _target
from placement.errors import WorldError

ALPHA = Head("alpha", "127.0.0.2:1", 1, 0.0, "", "", "")
BETA = Head("beta", "127.0.0.2:2", 2, 0.0, "", "", "")


def test_the_only_lab_needs_no_name():
    """Where one lab of ours runs, its Ray is meant; another name may be a lab on the same Ray."""
    assert _target([ALPHA], None, None) == ALPHA.address
    assert _target([ALPHA], "guest", None) == ALPHA.address


def test_of_two_labs_the_named_one_is_joined():
    """With a head for each lab, the name picks the head."""
    assert _target([ALPHA, BETA], "beta", None) == BETA.address


@pytest.mark.parametrize("name", [None, "gamma"])
def test_of_two_labs_none_is_guessed(name):
    """Without a name that fits, nothing is joined and both labs are told."""
    with pytest.raises(WorldError, match="alpha, beta") as refused:
        _target([ALPHA, BETA], name, None)
    assert refused.value.code == "TRC040"


def test_the_address_of_jobs_is_refused_with_the_reason():
    """The dashboard's address, which RAY_ADDRESS often holds, cannot be joined, and the error says so."""
    with pytest.raises(WorldError, match="jobs") as refused:
        _target([ALPHA], None, "http://127.0.0.1:8265")
    assert refused.value.code == "TRC044"


def test_paths_of_a_role_are_meant_from_where_the_call_is_made(tmp_path, monkeypatch):
    """A path that exists here becomes absolute; a hub id and an address stay as they are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lora" / "critic").mkdir(parents=True)
    paths = {"lora_path": "lora/critic", "persona_file": "./critic.txt", "location": "RAM"}
    assert _absolute(paths) == {
        "lora_path": str(tmp_path / "lora" / "critic"),
        "persona_file": str(tmp_path / "critic.txt"),
        "location": "RAM",
    }
    for elsewhere in ("anna/critic", "https://example.org/lora/critic/"):
        assert _absolute({"lora_path": elsewhere}) == {"lora_path": elsewhere}
    assert _absolute({"lora_path": None, "pin": True}) == {"lora_path": None, "pin": True}
