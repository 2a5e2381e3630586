"""A lab whose Ray head was killed with all that hung on it: `up` brings back the lab that there was."""

import json
import os
import signal
import time

import pytest

from tests.shell import session, tierce
from tests.tiny_lab import build_parts, write_file

pytestmark = [pytest.mark.ray, pytest.mark.soak]


def test_a_killed_head_comes_back_by_up_with_the_lab_that_there_was(tmp_path):
    """Kill -9 of the head and all of its processes: ordered homes and roles that were said are back."""
    home, parts = tmp_path / "home", build_parts(tmp_path / "parts")
    file = str(write_file(tmp_path, parts, name="phoenix"))
    said = ["--role", "critic", "--lora-path", str(parts / "artist"), "--location", "RAM"]
    up = tierce(home, "up", file, *said)
    assert up.returncode == 0, up.stderr
    try:
        assert tierce(home, "move", "artist", "--to", "RAM").returncode == 0
        words, epoch = text_of(home), json.loads(tierce(home, "ps", "--json").stdout)["epoch"]
        head = json.loads((home / "phoenix/head.json").read_text(encoding="utf-8"))["pid"]
        for pid in session(head):
            os.kill(pid, signal.SIGKILL)
        again = tierce(home, "up", file)
        assert again.returncode == 0, again.stderr
        listing = json.loads(tierce(home, "ps", "--json").stdout)
        homes = {thing["name"]: thing["home"] for thing in listing["things"]}
        assert (homes["artist"], homes["critic"]) == ("desk:RAM", "desk:RAM")
        assert listing["epoch"] > epoch
        assert text_of(home) == words
    finally:
        ours = session(json.loads((home / "phoenix/head.json").read_text(encoding="utf-8"))["pid"])
        down = tierce(home, "down")
    assert down.returncode == 0, down.stderr
    give_up = time.monotonic() + 20
    while set(ours) & set(session(ours[0])):
        assert time.monotonic() < give_up, "processes of the head are left"
        time.sleep(0.1)


def text_of(home):
    """What the critic answers to one question."""
    done = tierce(home, "ask", "critic", "Hello?", "--temperature", "0", "--max-tokens", "8", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["text"]
