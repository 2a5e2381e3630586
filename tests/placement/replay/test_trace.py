import json
import random

import pytest

from placement.errors import UserError
from placement.replay.trace import BUS, DISK, read, write
from placement.replay.workloads import generate

HEADER = {"tierce_trace": 1, "workload": "log", "items": {"a@1": {"nbytes": 10, "role": "a"}}}
ASK = {"t": 1.0, "role": "a", "busy_s": 0.5}


def lines(*objects):
    """Return objects as the lines of a file; what is text already stays as it is."""
    return [each if isinstance(each, str) else json.dumps(each) for each in objects]


@pytest.mark.parametrize("name", ["zipf-1.0", "round-table"])
def test_a_trace_that_is_written_and_read_again_is_the_same(name):
    """Header and asks, announcements too."""
    made = generate(name, random.Random(3), 50, 3)
    assert read(write(made), "t") == made


def test_what_a_header_leaves_out_has_a_default():
    """Sizes and roles are enough."""
    header = read(lines(HEADER, ASK), "t").header
    assert (header.slots, header.ram, header.seed) == (8, 2, None)
    assert header.speeds[DISK] < header.speeds[BUS]


def test_fields_that_a_replay_does_not_know_are_passed_over():
    """A lab's log says more of each ask."""
    assert read(lines(HEADER, {**ASK, "tier": "SSD"}), "t").asks[0].role == "a"


def test_a_role_that_joins_or_changes_while_a_log_is_written_has_a_line_of_its_own():
    """Its last bytes count for the whole replay."""
    later = {"item": "a@2", "nbytes": 30, "role": "a"}
    header = read(
        lines(HEADER, ASK, later, {"item": "b@1", "nbytes": 5, "role": "b"}, {**ASK, "role": "b"}), "t"
    ).header
    assert {item: cargo.nbytes for item, cargo in header.items.items()} == {"a@2": 30, "b@1": 5}


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("{", r"t:2: '\{' is not JSON: .*"),
        ("7", r"t:2: 7 is not an object"),
        ({**ASK, "role": "b"}, r"t:2: role 'b' has no item in the header"),
        ({**ASK, "after": "b"}, r"t:2: after 'b' has no item in the header"),
        ({**ASK, "t": "now"}, r"t:2: t is 'now', not a number"),
        ({**ASK, "t": True}, r"t:2: t is True, not a number"),
        ('{"t": NaN, "role": "a", "busy_s": 1}', r"t:2: t is nan, not a number"),
        ({**ASK, "busy_s": -1}, r"t:2: busy_s is -1, and 0 is the least"),
        ({"t": 1.0, "role": "a"}, r"t:2: busy_s is None, not a number"),
        ({"item": "c@1", "nbytes": 0, "role": "c"}, r"t:2: items.c@1.nbytes is 0, and 1 is the least"),
    ],
)
def test_a_line_that_is_no_ask_is_an_error_with_its_number_and_value(bad, told):
    """And what to do next stands beside it."""
    with pytest.raises(UserError, match=f"^{told} \\[TRC081\\]$") as error:
        read(lines(HEADER, bad, ASK), "t")
    assert "--save" in error.value.hint


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tierce_trace": 2}, "tierce_trace is 2, and this Tierce reads 1"),
        ({"items": {}}, r"items are \{\}, not an object that names some"),
        ({"items": {"a@1": 7}}, "items.a@1 is 7, not an object with nbytes and role"),
        ({"items": {"a@1": {"nbytes": "10", "role": "a"}}}, "items.a@1.nbytes is '10', not a number"),
        ({"items": {"a@1": {"nbytes": 1}}}, "items.a@1.role is None, not a name"),
        ({"slots": 0}, "slots is 0, and 1 is the least"),
        ({"seed": "x"}, "seed is 'x', not a whole number or null"),
        ({"speeds": {"SSD>RAM": 0}}, "speeds.SSD>RAM is 0, and 1 is the least"),
        ({"latencies": 3}, r"latencies is 3, not an object by hop \(SSD>RAM, RAM>VRAM\)"),
        (
            {"items": {"a@1": {"nbytes": 1, "role": "a"}, "a@2": {"nbytes": 1, "role": "a"}}},
            "role 'a' has two items, a@1 and a@2",
        ),
    ],
)
def test_a_wrong_header_is_an_error_that_names_the_field_and_its_value(change, told):
    """A header is the first line."""
    with pytest.raises(UserError, match=f"^t:1: .*{told}.* \\[TRC081\\]$"):
        read(lines({**HEADER, **change}, ASK), "t")


def test_asks_are_played_in_the_order_of_their_times_whatever_that_of_their_lines():
    """A lab writes an ask down when it ends."""
    made = read(lines(HEADER, ASK, {**ASK, "t": 0.5}), "t")
    assert [ask.t for ask in made.asks] == [0.5, 1.0]


def test_an_empty_trace_and_one_without_asks_are_errors():
    """Blank lines are no lines."""
    with pytest.raises(UserError, match=r"t is empty: its first line is the header \[TRC082\]"):
        read(["", "\n"], "t")
    with pytest.raises(UserError, match=r"t has no asks below its header \[TRC082\]"):
        read(lines(HEADER), "t")
