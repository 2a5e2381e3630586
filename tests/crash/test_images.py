"""kill -9 at every crash point of the SSD tier: an image is there whole, or it is not there."""

import hashlib
import json

import numpy as np
import pytest

from actors.lm.adapter import CONFIG, WEIGHTS
from actors.lm.files import ImageFiles
from actors.lm.image import image_digest
from actors.lm.source import source_digest
from tests.crash.points import crash

A, A_AGAIN, B = (np.arange(first, first + 5000, dtype=np.int64).astype(np.uint8) for first in (0, 1, 2))
FILES = (CONFIG, WEIGHTS)
#: the step that puts other bytes in the place of an image: it is gone before they come
REPLACED = 6


def no_pace(_nbytes):
    """Hash as fast as it goes."""


def steps(source):
    """Return what is done to the tier, in order; each can be done again."""
    digest = source_digest(*(hashlib.sha256((source / file).read_bytes()).hexdigest() for file in FILES))
    return (
        lambda files: files.put("a@1", A, image_digest(A)),
        lambda files: files.put("b@1", B, image_digest(B)),
        lambda files: files.prove("b@1", image_digest(B), "engine-1"),
        lambda files: files.scrub_next(no_pace, 1.0),
        lambda files: files.keep_source("c@1", str(source), digest),
        lambda files: files.put("c@1", A, image_digest(A)),
        lambda files: files.put("a@1", A_AGAIN, image_digest(A_AGAIN)),
        lambda files: files.drop("b@1"),
        lambda files: files.drop("c@1"),
    )


@pytest.fixture
def source(ram):
    """A directory with the two files of an adapter."""
    folder = ram / "adapter"
    folder.mkdir()
    (folder / CONFIG).write_text("{}")
    (folder / WEIGHTS).write_bytes(bytes(3000))
    return folder


def tier(root):
    """Return the folder of a tier in which one image rots: it was checked longest ago."""
    files = ImageFiles(root)
    files.put("rotten@1", A, image_digest(A))
    files.close()
    sidecar = root / "rotten@1.json"
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "checked_s": 0.0}))
    image = root / "rotten@1.safetensors"
    with image.open("r+b") as stream:
        stream.write(b"rot")
    return root


def scene(root, todo):
    """Return the scene that opens the tier and takes the steps."""

    def play(done):
        files = ImageFiles(root)
        for step in todo:
            step(files)
            done()

    return play


def held(root):
    """Return digest and proofs of each image that a new owner finds, verified; nothing else lies about."""
    files = ImageFiles(root)
    try:
        assert not list(root.glob("*.tmp"))
        images = {path.stem for path in root.glob("*.safetensors")}
        assert images <= {path.stem for path in root.glob("*.json")}
        found = {}
        for item in files.inventory():
            if item != "rotten@1":  # nobody has looked at it since
                digest = image_digest(files.get(item))
                found[item] = (digest, files.proven(item, digest))
            else:
                found[item] = ("rotten", ())
        if files.source("c@1").exists():
            found["the source of c"] = (len((files.source("c@1") / WEIGHTS).read_bytes()), ())
        return found
    finally:
        files.close()


@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
def test_a_tier_killed_anywhere_holds_what_it_acknowledged(ram, source, torn, passed):
    """Each image is as the last step that returned left it, or as the next one will."""
    todo = steps(source)
    after = []
    for count in range(len(todo) + 1):
        root = tier(ram / f"whole{count}")
        files = ImageFiles(root)
        for step in todo[:count]:
            step(files)
        files.close()
        after.append(held(root))
    points = crash(scene(tier(ram / "whole"), todo)).points
    passed(points)
    assert len(points) > 3 * len(todo)
    for at in range(len(points)):
        root = tier(ram / f"{at}")
        run = crash(scene(root, todo), at, torn=torn)
        assert run.killed
        before, then, found = after[run.done], after[min(run.done + 1, len(todo))], held(root)
        for name in {*before, *then, *found}:
            allowed = [before.get(name), then.get(name)]
            allowed += [None] if run.done == REPLACED else []
            assert found.get(name) in allowed, f"point {at} ({points[at]}): {name}"
        assert crash(scene(root, todo[run.done :])).done == len(todo) - run.done
        assert held(root) == after[-1]
