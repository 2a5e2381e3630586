"""`tierce demo`, as `make demo` runs it: the example lab, the trained adapters, from up to down."""

import re
import shutil
import subprocess

import pytest

from tests.shell import COMMAND, ROOT, environment, session

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

DOCS = "examples/athens/docs"
#: What an index of a moment needs; all of the dialogues take most of a minute.
FEW = (f"{DOCS}/plato/republic-09.md", f"{DOCS}/plays/romeo-and-juliet/scene-08.md")


def clone(root):
    """Copy to `root` what the demo needs of the tree, with two of its documents."""
    for folder in ("actors", "placement"):
        shutil.copytree(ROOT / folder, root / folder)
    for file in ("tierce.py", "cluster.yaml", *FEW):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, root / file)
    for folder in ("base", "adapters"):
        (root / "examples/athens" / folder).symlink_to(ROOT / "examples/athens" / folder)
    return root


@pytest.fixture(scope="module", params=["two documents", pytest.param("all", marks=pytest.mark.soak)])
def demo(request, tmp_path_factory):
    """How the demo ended and what it wrote."""
    root = ROOT if request.param == "all" else clone(tmp_path_factory.mktemp("clone"))
    return subprocess.run(
        [*COMMAND, "demo"],
        cwd=root,
        env=environment(tmp_path_factory.mktemp("home"), PYTHONPATH=str(root)),
        check=False,
        capture_output=True,
        text=True,
    )


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
