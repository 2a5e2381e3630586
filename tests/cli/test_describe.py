"""`tierce describe`: what there is, who may ask it, what happened, and at the end why it is where it is."""

import json

import pytest

from actors.description import Description
from actors.errors import UnknownName
from actors.journal import Line
from placement.why import Here, Why
from tests.cli import conftest

ITEM = "coder@0b1c2d3e4f50"
HERE = Here(
    place="local:RAM",
    phase="ready",
    for_s=120.0,
    rule="its home by `move`, ordered by the user",
    came="2min ago from local:SSD in 3ms: moved by the user",
    leases=0,
    score=0.25,
    worth=(
        "asked for 3.0 times of late (a memory of 25 asks)",
        "63% likely within the next 2 asks",
    ),
    evicted=("when who is wanted finds no room (9.0 GiB of 9.1 GiB are free)",),
    unloads=("never by itself: it rests here",),
    unloads_in_s=None,
)
WHY = Why(
    item=ITEM,
    home="local:RAM",
    home_by="`move`, ordered by the user",
    serves_at="local:VRAM(cpu)",
    here=(HERE,),
    absent=("local:VRAM(cpu) for 1min: idle for 600 s; it rests at local:RAM",),
    moves=(),
    retries=("local:VRAM(cpu): tried again in 2s; failed once, the last:", "  no answer [TRC015]"),
    asked="ready at local:VRAM(cpu) in about 3ms",
)
DESCRIBED = Description(
    thing=conftest.CODER,
    item=ITEM,
    activated_by=("user", "schedule"),
    actors=("role:coder on local", "engine:small on local"),
    rules=("warmed after artist", "unloads after 10min idle"),
    events=(Line(1_800_000_000.25, ITEM, "move to local:RAM ordered by the user"),),
    why=WHY,
)


class Lab(conftest.Lab):
    """A lab that describes its coder."""

    def describe(self, name):
        if self.error:
            raise self.error
        self.orders.append(("describe", name))
        return DESCRIBED


@pytest.fixture
def lab():
    """The lab that the commands find."""
    return Lab()


def test_describe_ends_with_events_and_why_here(tierce, lab):
    """First what it is, then its story, then why."""
    done = tierce("describe", "coder")
    out = done.out.splitlines()
    assert out[0] == f"role {ITEM}: ready, 1.7 MiB"
    assert "  asked         7 times, the last 2s ago; activated 1 time" in out
    assert "  activated by  user, schedule" in out
    assert "  its entry     warmed after artist; unloads after 10min idle" in out
    events, here = out.index("Events"), out.index("Why here")
    assert out[events + 1].endswith(":00.250  move to local:RAM ordered by the user")
    assert out[here + 1 : here + 3] == [
        "local:RAM  ready for 2min",
        "  rule     its home by `move`, ordered by the user",
    ]
    assert out[-1] == "asked now  ready at local:VRAM(cpu) in about 3ms"
    assert lab.orders == [("describe", "coder")]


def test_describe_is_one_line_a_fact_of_eighty_columns_and_plain_in_a_pipe(tierce):
    """Facts after the first stand below it, without their label."""
    out = tierce("describe", "coder").out
    assert "           63% likely within the next 2 asks\n" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out


def test_describe_json_has_all_of_it(tierce):
    """For a page and for scripts: the numbers beside the words."""
    said = json.loads(tierce("describe", "coder", "--json").out)
    assert said["schema"] == "tierce.describe/v1"
    assert said["why"]["here"][0]["unloads_in_s"] is None
    assert said["thing"]["name"] == "coder"
    assert said["events"][0]["item"] == ITEM


def test_describe_of_nobody_is_a_user_error_that_says_who_was_meant(tierce, lab):
    """The lab's own error, with its exit code."""
    lab.error = UnknownName("TRC001", "the lab has no role or shard 'codr'", "did you mean 'coder'?")
    done = tierce("describe", "codr")
    assert done.code == 2
    assert "did you mean 'coder'?" in done.err
