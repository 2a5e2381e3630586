"""`tierce demo`, as `make demo` runs it: the example lab, the trained adapters, from up to down."""

import re

import pytest

from tests.shell import session, tierce

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """How the demo ended and what it wrote."""
    return tierce(tmp_path_factory.mktemp("home"), "demo")


def test_the_demo_shows_everything_and_succeeds(demo):
    """Three roles answer, two with sources; things move while one speaks; costs stand beside PEFT's."""
    assert demo.returncode == 0, demo.stderr
    for shown in (
        r"\[1\] plato/\S+\.md 0\.\d\d chars \d+-\d+",
        r"\[1\] plays/\S+\.md 0\.\d\d chars \d+-\d+",
        r"philosopher is at home in desk:RAM: \S+ [KM]iB copied",
        r"artist is at home in desk:VRAM\(cpu\): \S+ [KM]iB copied",
        r"copy \S+ [KM]iB from desk:SSD to desk:VRAM\(cpu\): moved by the user",
        r"coder +RAM +\d+ +[\d.]+ ms",
        r"artist +SSD +\d+ +[\d.]+ ms",
        r"coder +PEFT load_adapter +5 +[\d.]+ ms",
    ):
        assert re.search(shown, demo.stdout), f"{shown}\n{demo.stdout}"
    assert "adapter came from RAM" in demo.stderr
    assert "adapter came from SSD" in demo.stderr


def test_the_demo_leaves_no_process(demo):
    """What it says it ended is gone: no process is left in the session of its Ray."""
    (pid,) = re.findall(r"actors and Ray (\d+) ended", demo.stderr)
    assert session(int(pid)) == []
