"""kill -9 at any moment: no acknowledged write is lost, none comes back changed, moves included."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actors.rag.shelf import Shelf
from placement.tiers import Tier

SCRIPT = Path(__file__).with_name("writer.py")
_spec = importlib.util.spec_from_file_location("writer", SCRIPT)
writer = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(writer)


class Scene:
    """A shard's directories and a process that writes to it."""

    def __init__(self, root: Path) -> None:
        self.log, self.ram, self.ssd = root / "log", root / "ram", root / "ssd"
        self.acks = root / "acks"

    def run(self, scene: str, acks: int = 0) -> int:
        """Run the writer until it kills itself, or has acknowledged `acks` writes; return its status."""
        self.acks.touch()
        paths = [str(path) for path in (self.log, self.ram, self.ssd, self.acks)]
        environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
        with subprocess.Popen([sys.executable, str(SCRIPT), *paths, scene], env=environment) as process:
            while acks and process.poll() is None:
                if self.acks.read_bytes().count(b"\n") >= acks:
                    process.kill()
        return process.returncode

    def reopen(self, tier: Tier) -> Shelf:
        """Open the shard as the next process does."""
        directory = self.ram if tier is Tier.RAM else self.ssd
        return Shelf.open("papers", self.log, directory, tier, writer.DIM, "seeded:1")

    def check(self, shelf: Shelf) -> int:
        """Compare the shard with the acknowledgements; return how many there were.

        The one write that was in flight may be there or not: it was never acknowledged.
        """
        lines = self.acks.read_text().splitlines()
        expected = dict(line.split() for line in lines)
        in_flight = f"d{len(lines) % writer.NAMES}"
        found = shelf.documents()
        for name in expected.keys() | found.keys():
            acknowledged, held = expected.get(name, "-"), found.get(name, "-")
            unacknowledged = "-" if len(lines) % 5 == 4 else str(len(lines))
            assert held == acknowledged or (name == in_flight and held == unacknowledged)
        assert shelf.stats().points == writer.CHUNKS * len(found)
        for name, version in found.items():
            rows = writer.vectors(int(version))
            for at in (0, writer.CHUNKS - 1):
                passage = shelf.search(rows[at], 1)[0]
                assert passage.text == f"{name} v{version} c{at}"
                np.testing.assert_allclose(passage.score, 1, atol=1e-5)
        return len(lines)


@pytest.fixture
def scene(ram):
    """Return an empty stage in memory: kill -9 loses no page there either, and no disk is slow."""
    return Scene(ram)


@pytest.mark.parametrize(
    "moment",
    [
        "touched:1",
        "logged:8",
        "indexed:12",
        "replaced:13",
        "deleted:3",
        "flushed:1",
        "built:1",
        "opened:1",
        "flipped:1",
    ],
)
def test_a_process_killed_at_a_chosen_moment_loses_nothing(scene, moment):
    """Between log and index, within a replacement, at each step of a move: what was acknowledged is there."""
    assert scene.run(moment) == -9
    for tier in (Tier.RAM, Tier.SSD):
        shelf = scene.reopen(tier)
        scene.check(shelf)
        shelf.close()


def test_only_the_tail_is_replayed_after_a_kill(scene):
    """What the index had not seen is replayed from the log into it; it is not built anew."""
    assert scene.run("logged:9") == -9
    shelf = scene.reopen(Tier.RAM)
    assert (shelf.stats().seq, shelf.stats().rebuilt) == (9, "")
    shelf.close()


def test_an_index_that_was_only_opened_is_not_built_again_after_a_kill(scene):
    """What the engine changes in its files by loading them is no damage."""
    assert scene.run("logged:9") == -9
    scene.reopen(Tier.RAM).close()
    for _ in range(2):
        assert scene.run("idle") == -9
    shelf = scene.reopen(Tier.RAM)
    assert (shelf.stats().seq, shelf.stats().rebuilt) == (9, "")
    shelf.close()


@pytest.mark.parametrize(("kind", "acks"), [("write", 40), ("move", 60)])
def test_a_process_killed_from_outside_loses_nothing(scene, kind, acks):
    """Killed at any moment of writing or moving, a shard opens with every acknowledged write."""
    assert scene.run(kind, acks) == -9
    shelf = scene.reopen(Tier.RAM)
    assert scene.check(shelf) >= acks
    shelf.close()


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["write", "move"])
@pytest.mark.parametrize("acks", [5 * n * n for n in range(1, 11)])
def test_many_kills_lose_nothing(scene, kind, acks):
    """The same at many moments."""
    assert scene.run(kind, acks) == -9
    shelf = scene.reopen(Tier.RAM if acks % 2 else Tier.SSD)
    assert scene.check(shelf) >= acks
    shelf.close()
