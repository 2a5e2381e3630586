"""Orders to warm on the command line, and what takes them back."""

import json

import pytest

from tests.cli import conftest


class Lab(conftest.Lab):
    """A lab whose orders to warm can be taken back."""

    def cool(self, item):
        return self._order("cool", item)


@pytest.fixture
def lab():
    """The lab that the commands find."""
    return Lab()


def test_warm_json_says_how_soon_and_who_leaves(tierce):
    """The line for a person says the same, on stderr."""
    said = json.loads(tierce("warm", "coder", "--json").out)
    assert (said["schema"], said["item"]["name"]) == ("tierce.warm/v1", "coder")
    assert (said["eta_s"], said["evicts"], said["waits_for"]) == (0.2, ["critic"], [])


def test_cool_takes_an_order_to_warm_back_and_shows_the_row(tierce, lab):
    """As `lab.cool` does."""
    assert "coder" in tierce("cool", "coder").out
    assert lab.orders == [("cool", "coder")]


def test_cool_json_is_the_row(tierce):
    """Under a schema of its own."""
    said = json.loads(tierce("cool", "coder", "--json").out)
    assert (said["schema"], said["item"]["name"]) == ("tierce.cool/v1", "coder")
