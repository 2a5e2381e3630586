"""Each exit code, by the very path that a shell takes."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from actors.cli.faults import MEANINGS, Exit, exit_code
from placement.errors import Busy, UserError, WorldError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WorldError("STO003", "the disk is full"), Exit.WORLD),
        (Busy("TRC011", "in use"), Exit.WORLD),
        (UserError("TRC001", "no such role"), Exit.USER),
        (UserError("ADP001", "no weights"), Exit.ADAPTER),
        (WorldError("TRC040", "no lab"), Exit.NO_LAB),
        (WorldError("TRC044", "no Ray"), Exit.NO_LAB),
        (WorldError("TRC012", "did not come up"), Exit.LATE),
        (WorldError("TRC013", "did not move"), Exit.LATE),
        (WorldError("TRC030", "did not answer"), Exit.LATE),
    ],
    ids=lambda value: getattr(value, "code", value),
)
def test_an_error_ends_the_command_with_its_code(tierce, lab, error, code):
    """The exit code follows from the error alone, and stays the same after a way between processes."""
    lab.error = error
    assert tierce("move", "coder", "--to", "RAM").code == code
    assert exit_code(pickle.loads(pickle.dumps(error))) == code  # noqa: S301  (our own bytes)


def test_success_is_zero(tierce):
    """A command that did its work exits 0."""
    assert tierce("ps").code == Exit.DONE


def test_a_lab_that_is_up_in_part_is_six(tierce, lab):
    """`up` names the role that failed and exits 6, and the others serve."""
    from dataclasses import replace

    lab.things = (lab.things[0], replace(lab.things[1], problem="no weights in the directory [ADP002]"))
    done = tierce("up")
    assert done.code == Exit.PARTIAL
    assert "error: role coder: no weights in the directory [ADP002]" in done.err
    assert "philosopher" in done.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["ask", "coder"],
        ["move", "coder", "--to", "vrm"],
        ["move", "coder"],
        ["ps", "--wid"],
        ["warm", "coder", "--within", "10"],
        ["warm", "coder", "--within", "0s"],
        ["roundtable", "why?"],
        ["roundtable", "why?", "--role", "coder", "--rounds", "0"],
        ["add-role", "critic", "--location", "RAM"],
        ["add-role", "critic", "--lora-path", "x"],
        ["update-role", "coder"],
        ["up", "--location", "RAM"],
        ["up", "--role", "critic", "--location", "RAM"],
    ],
)
def test_a_wrong_command_line_is_two(tierce, labs, arguments):
    """What cannot be understood reaches no lab."""
    done = tierce(*arguments)
    assert done.code == Exit.USER
    assert done.out == ""
    assert "Usage: tierce" in done.err
    assert labs.asked == []


def test_ctrl_c_stops_the_decoding_and_is_130(tierce, lab):
    """Ctrl-C in the midst of an answer closes its stream, which stops the decoding."""
    lab.at_piece = lambda: os.kill(os.getpid(), signal.SIGINT)
    done = tierce("ask", "philosopher", "what", "is", "justice?")
    assert done.code == Exit.INTERRUPTED
    assert lab.streams[0].closed
    assert "Traceback" not in done.err


def test_an_error_is_one_line_and_a_hint(tierce, lab):
    """An error shows what, the code, and what to do; no traceback."""
    lab.error = WorldError("TRC013", "coder is not at local:RAM after 120 s", "see `tierce story coder`")
    done = tierce("move", "coder", "--to", "RAM")
    assert done.err == "error: coder is not at local:RAM after 120 s [TRC013]\n  see `tierce story coder`\n"
    assert done.out == ""


def test_an_unforeseen_error_is_one_line_too(tierce, lab):
    """Even a fault of ours ends without a traceback, and says how to see it."""
    lab.at_piece = lambda: {}["gone"]
    done = tierce("ask", "philosopher", "hm")
    assert done.code == Exit.WORLD
    assert "error: KeyError: 'gone' [TRC000]" in done.err
    assert "--debug" in done.err
    assert "Traceback" not in done.err


TEN_MISTAKES = """\
lab: athens
nodes:
  desk: {vrm: 20GiB, ram: 48}
bases:
  small: {model: ./base, node: dsk, slots: many}
roles:
  philosopher: {lora_path: ./philosopher, location: VRM, rag: [platto]}
  coder: {location: RAM, activated_by: [usr]}
rag:
  plato: {location: RAM, source: ./plato, url: "http://x"}
policy: {vram_high: 120%}
"""


@pytest.mark.parametrize("command", ["check", "up"])
def test_a_file_with_ten_mistakes_shows_all_ten(tmp_path, capsys, command):
    """Each mistake has its place, its caret and its code, at once, without Ray, and the command exits 2."""
    from actors.cli.app import run

    file = tmp_path / "cluster.yaml"
    file.write_text(TEN_MISTAKES, encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        run([command, str(file)])
    said = "".join(capsys.readouterr())
    assert ended.value.code == Exit.USER
    problems = [line for line in said.splitlines() if line.startswith(f"{file}:") and line.endswith("]")]
    assert len(problems) == 10, said
    assert said.count("^") == 10
    assert "did you mean 'VRAM'?" in said
    assert "Traceback" not in said
    with pytest.raises(SystemExit):
        run([command, str(file), "--json"])
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 10


def test_debug_lets_the_error_out(labs, lab):
    """With --debug the error itself comes out, with its traceback."""
    from actors.cli.app import run

    lab.error = WorldError("TRC013", "late")
    with pytest.raises(WorldError, match="late"):
        run(["--debug", "move", "coder", "--to", "RAM"], labs)


def test_every_exit_code_is_explained_in_the_help(tierce):
    """`tierce --help` lists each exit code with its meaning."""
    said = " ".join(tierce("--help").out.split())
    assert set(MEANINGS) == set(Exit)
    for code, meaning in MEANINGS.items():
        assert f"{code.value}: {meaning}" in said


def test_help_starts_without_ray_and_torch():
    """Commands that need no lab load nothing heavy, the brain included, so that they answer at once."""
    heavy = "{'ray', 'torch', 'numpy', 'pydantic', 'placement.machine'}"
    code = (
        "import sys, tierce\n"
        "try: tierce.main()\n"
        f"except SystemExit: print(*{heavy} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stderr.strip() == ""
    assert "philosopher" not in done.stdout
    assert "ps" in done.stdout
