import json

import pytest

from actors.bench import replay_plot
from actors.cli.app import run

FILE = """\
nodes:
  desk: {vram: 20GiB, ram: 1GiB}
bases:
  small: {model: ./base, node: desk, slots: 4, kv_cache: 1GiB}
roles:
"""


@pytest.fixture
def tierce(capsys):
    """The command line: call it with its arguments; it returns exit code, stdout and stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            run([str(argument) for argument in arguments])
        return ended.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def trace(tierce, tmp_path):
    """A round table's trace, written by the command itself."""
    path = tmp_path / "trace.jsonl"
    code, _, err = tierce(
        "replay", "--workload", "round-table", "--asks", 60, "--slots", 8, "--policy", "lru", "--save", path
    )
    assert code == 0
    assert f"written to {path}" in err
    return path


def test_a_workload_is_played_by_every_policy_at_each_number_of_slots(tierce):
    """A table on stdout, how long each took on stderr."""
    code, out, err = tierce("replay", "--workload", "llm-d", "--asks", 40, "--slots", "2,4", "--seed", 3)
    assert code == 0
    first, header, *rows = out.splitlines()
    assert first.startswith("llm-d, seed 3: 40 asks of 15 roles in ")
    assert header.split()[:2] == ["SLOTS", "POLICY"]
    policies = ["tierce", "lru", "lfu", "gdsf", "clairvoyant"]
    assert [row.split()[:2] for row in rows] == [[slots, name] for slots in ("2", "4") for name in policies]
    assert err.count("played in") == 10


def test_a_trace_that_was_saved_plays_as_the_workload_did(tierce, trace):
    """To the digit, as JSON too."""
    again = tierce("replay", trace, "--policy", "lru", "--slots", 8, "--json")
    drawn = tierce(
        "replay", "--workload", "round-table", "--asks", 60, "--policy", "lru", "--slots", 8, "--json"
    )
    assert (again[0], drawn[0]) == (0, 0)
    told = json.loads(again[1])
    assert told == json.loads(drawn[1])
    (score,) = told["scores"]
    assert (told["schema"], told["workload"], told["seed"]) == ("tierce.replay/v1", "round-table", 0)
    assert (score["policy"], score["slots"], score["asks"]) == ("lru", 8, 60)
    assert sum(score["found"].values()) == 60


def test_a_log_is_played_with_the_seats_of_its_engine(tierce, trace):
    """A workload has no engine of its own, and is played at three numbers of seats."""

    def slots():
        _, out, _ = tierce("replay", trace, "--policy", "lru", "--json")
        return [score["slots"] for score in json.loads(out)["scores"]]

    assert slots() == [8, 16, 32]
    head, _, asks = trace.read_text().partition("\n")
    trace.write_text(json.dumps({**json.loads(head), "workload": "log", "slots": 4}) + "\n" + asks)
    assert slots() == [4]


def test_without_hints_nobody_is_told_who_speaks_next(tierce, trace):
    """At a round table that is saved, the next speaker is then not fetched ahead."""

    def ours(*more):
        _, out, _ = tierce("replay", trace, "--policy", "tierce", "--slots", 8, "--json", *more)
        (score,) = json.loads(out)["scores"]
        return score

    assert ours() == ours("--hints")
    assert ours()["found"]["VRAM"] > ours("--no-hints")["found"]["VRAM"]


def test_a_trace_plays_in_the_lab_of_a_file_and_in_one_said_otherwise(tierce, trace, tmp_path):
    """Its slots are the file's, and more RAM brings more asks from RAM."""
    roles = "".join(f"  role-{n:03}: {{base: small, lora_path: ./r, location: SSD}}\n" for n in range(24))
    lab = tmp_path / "lab.yaml"
    lab.write_text(FILE + roles)

    def lru(*more):
        code, out, _ = tierce("replay", trace, "--config", lab, "--policy", "lru", "--json", *more)
        assert code == 0
        (score,) = json.loads(out)["scores"]
        return score

    assert lru()["slots"] == 4
    assert lru("--what-if", "base.small.slots=16")["slots"] == 16
    assert lru("--what-if", "node.desk.ram=20GiB")["found"]["RAM"] > lru()["found"]["RAM"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "name a trace, or a workload"),
        (("t.jsonl", "--workload", "zipf-1.0"), "name a trace, or a workload"),
        (("t.jsonl", "--save", "x"), "a trace is a file already"),
        (("t.jsonl", "--what-if", "node.desk.ram=1GiB"), "name that with --config"),
        (("t.jsonl",), "the trace t.jsonl cannot be read: No such file or directory [TRC086]"),
        (("--workload", "zipf"), "unknown workload 'zipf' [TRC080]"),
        (("--workload", "zipf-1.0", "--asks", "5", "--policy", "mru"), "unknown policy 'mru' [TRC083]"),
        (("--workload", "zipf-1.0", "--asks", "5", "--slots", "8,none"), "is not numbers such as 8,16,32"),
    ],
)
def test_a_wrong_command_ends_with_exit_code_2_and_says_what_is_wrong(tierce, arguments, told):
    """Nothing is played."""
    code, out, err = tierce("replay", *arguments)
    assert code == 2
    assert told in " ".join(err.replace("│", " ").split())
    assert out == ""


def test_a_bad_line_of_a_trace_is_told_with_its_number_as_json_too(tierce, trace):
    """The place, the value and the next step."""
    trace.write_text(trace.read_text() + '{"t": 1e9, "role": "nobody", "busy_s": 1}\n')
    code, out, _ = tierce("replay", trace, "--json")
    assert code == 2
    error = json.loads(out)
    assert (error["code"], error["message"]) == (
        "TRC081",
        f"{trace}:62: role 'nobody' has no item in the header",
    )


def test_a_plot_is_a_png(tierce, trace, tmp_path):
    """One picture for all numbers of slots."""
    picture = tmp_path / "scores.png"
    code, _, err = tierce(
        "replay", trace, "--policy", "lru", "--policy", "lfu", "--slots", "4,8", "--plot", picture
    )
    assert code == 0
    assert f"drawn in {picture}" in err
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_plot_is_refused_before_anything_is_played(tierce, trace, monkeypatch):
    """The error says what to install."""
    monkeypatch.setattr(replay_plot, "find_spec", lambda _: None)
    code, out, err = tierce("replay", trace, "--plot", "x.png")
    assert (code, out) == (2, "")
    assert "a plot needs matplotlib, which is not installed [TRC085]" in err
    assert "pip install 'tierce[plot]'" in err
    assert "played" not in err
