"""Which Ray a command joins, as the plain rule that decides it."""

import pytest

from actors.client import _target
from actors.head import Head
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
