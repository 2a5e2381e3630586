"""A round table on the screen: turns as they are spoken, sources, what was waited for adapters."""

import json
import os
import signal
from dataclasses import replace

from placement.errors import UserError

TWO = ("roundtable", "what", "is", "just?", "--role", "philosopher", "--role", "coder")


def test_a_round_table_shows_turns_then_their_costs(tierce, lab):
    """Each turn has its speaker, text and sources; a closing table says where adapters came from."""
    done = tierce(*TWO)
    turns, _, closing = done.out.partition("TURN")
    assert turns == (
        "philosopher\nJustice is doing one's own.\n\n"
        "[1] plato/republic-04.md 0.83 chars 120-560 Book IV\n"
        "[2] coder (coder@0b1c2d3e4f50): def justice(): ...\n"
        "coder\nreturn True\n\n"
    )
    rows = [line.split() for line in closing.splitlines()[1:]]
    assert rows == [
        ["1", "philosopher", "VRAM", "0s", "500ms", "2"],
        ["2", "coder", "RAM", "30ms", "1.2s", "0"],
    ]
    assert "left out: plato [2]: 80 tokens" in done.err
    assert "coder@0b1c2d3e4f50 · adapter came from RAM" in done.err
    assert done.err.endswith("2 turns in 1.7s, 30ms of it waiting for adapters; next speaker announced\n")
    options = {"temperature": None, "max_tokens": None, "seed": None}
    assert lab.orders == [("roundtable", "what is just?", ["philosopher", "coder"], 1, True, options)]


def test_a_turn_is_shown_while_it_is_spoken(tierce, lab, capsys):
    """Who speaks and each piece are written before the next piece is waited for."""
    seen = []
    lab.at_piece = lambda: seen.append(capsys.readouterr().out)
    tierce(*TWO)
    assert seen[:2] == ["philosopher\nJustice is ", "doing one's own."]
    assert seen[2].endswith("coder\nreturn True")


def test_rounds_and_settings_reach_the_lab(tierce, lab):
    """How often each speaks, whether adapters are warmed ahead, and how words are drawn, are passed on."""
    options = ["--rounds", "3", "--no-warm-ahead", "--temperature", "0", "--max-tokens", "9", "--seed", "7"]
    tierce("roundtable", "why?", "--role", "coder", *options)
    settings = {"temperature": 0.0, "max_tokens": 9, "seed": 7}
    assert lab.orders == [("roundtable", "why?", ["coder"], 3, False, settings)]


def test_a_round_table_as_json_has_every_turn(tierce):
    """The JSON form has the question, each turn whole, and the seconds waited; stdout has nothing else."""
    said = json.loads(tierce("roundtable", "why?", "--role", "philosopher", "--json").out)
    assert said["question"] == "why?"
    assert said["exposed_s"] == 0.03
    assert [turn["tier"] for turn in said["turns"]] == ["VRAM", "RAM"]
    assert said["turns"][1]["text"] == "return True"
    assert said["turns"][0]["consulted"][0]["role"] == "coder"


def test_a_speaker_that_fails_does_not_end_the_table(tierce, lab):
    """A turn that broke off is told, the others are shown whole, and the command exits 6."""
    philosopher, coder = lab.spoken.turns
    broken = replace(philosopher, text="", problem="the engine has stopped [TRC031]")
    lab.spoken = replace(lab.spoken, turns=(broken, coder))
    lab.heard = (*lab.heard[:2], *lab.heard[4:])
    done = tierce(*TWO)
    assert done.code == 6
    assert "error: philosopher did not answer: the engine has stopped [TRC031]" in done.err
    assert done.out.startswith("philosopher\nJustice is \n")
    assert "\ncoder\nreturn True\n" in done.out
    assert "philosopher  failed" in done.out


def test_ctrl_c_ends_the_table(tierce, lab):
    """Ctrl-C in the midst of a turn lets the table close what it began, and exits 130."""
    lab.at_piece = lambda: os.kill(os.getpid(), signal.SIGINT)
    done = tierce(*TWO)
    assert done.code == 130
    assert lab.table_closed
    assert "return True" not in done.out


def test_what_could_not_be_announced_is_told(tierce, lab):
    """A speaker whose adapter could not be ordered up ahead is named, with the reason."""
    lab.spoken = replace(lab.spoken, unannounced=("coder: no room [TRC012]",))
    assert "not announced: coder: no room [TRC012]" in tierce(*TWO).err


def test_a_refusal_ends_the_table(tierce, lab):
    """A role that the user may not activate ends the command with 2 and the sentence that names who may."""
    lab.error = UserError("TRC002", "critic may be activated by coder; not by 'user'")
    done = tierce("roundtable", "why?", "--role", "critic")
    assert done.code == 2
    assert done.err == "error: critic may be activated by coder; not by 'user' [TRC002]\n"
    assert done.out == ""
