"""Which engine of a base is asked, where some of them do not answer."""

import pytest

from actors.errors import Unreachable
from actors.nearest import TELL_S, anatomy_of


class Hung:
    """Handles of engines of which only some answer; of each it keeps how long it was given."""

    def __init__(self, *answering):
        self.answering = answering
        self.given_s = {}

    async def call(self, name, method, *, within_s):
        self.given_s[name] = within_s
        if name not in self.answering:
            raise Unreachable("TRC030", f"{name} did not answer {method} in time")
        return f"told by {name}"


@pytest.mark.parametrize("within_s", [2.0, 60.0])
async def test_a_hung_engine_leaves_the_next_one_time_to_tell_of_their_base(within_s):
    """It has a few seconds at most, and its share where there are few."""
    handles = Hung("engine:small#2")
    assert await anatomy_of(handles, ["small", "small#2"], within_s) == "told by engine:small#2"
    assert handles.given_s["engine:small"] <= min(TELL_S, within_s / 2)


async def test_the_last_engine_of_a_base_has_all_the_time_that_is_left():
    """Of one engine that is all there is."""
    handles = Hung("engine:small")
    await anatomy_of(handles, ["small"], 60.0)
    assert handles.given_s["engine:small"] > TELL_S
