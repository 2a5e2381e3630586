"""A process for test_crash.py: writes to a shard, acknowledges each write in a file, dies when told to.

Arguments: log directory, RAM index directory, SSD index directory, acknowledgement file, and a scene. A scene
is "write" or "move" (the test kills it from outside), "idle" (it kills itself once the shard is open), or
"<what>:<n>" (it kills itself when that happens for the n-th time).
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from actors.rag.catalog import Catalog
from actors.rag.chunk import Chunk
from actors.rag.index import Index
from actors.rag.manifest import Manifest
from actors.rag.oplog import Oplog
from actors.rag.shelf import Shelf
from placement.tiers import Tier

DIM = 16
CHUNKS = 40
NAMES = 7


def vectors(version: int) -> np.ndarray:
    """Return the vectors of a version: nobody else's."""
    rows = np.random.default_rng(version).standard_normal((CHUNKS, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write(shelf: Shelf, version: int) -> str:
    """Do the operation number `version`; return the line that acknowledges it."""
    name = f"d{version % NAMES}"
    if version % 5 == 4:
        shelf.remove(name)
        return f"{name} -\n"
    chunks = [Chunk(f"{name} v{version} c{at}", at * 10, at * 10 + 9, "", name) for at in range(CHUNKS)]
    shelf.add(name, str(version), chunks, vectors(version))
    return f"{name} {version}\n"


def die_at(owner: type, method: str, nth: int, *, after: bool) -> None:
    """Kill this process with SIGKILL before or after the n-th call of a method."""
    calls = 0
    original: Callable[..., Any] = getattr(owner, method)

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, method, deadly)


SCENES = {
    "logged": lambda nth: die_at(Oplog, "append", nth, after=True),
    "indexed": lambda nth: die_at(Index, "upsert", nth, after=True),
    "replaced": lambda nth: die_at(Catalog, "take", nth, after=True),
    "deleted": lambda nth: die_at(Index, "delete", nth, after=True),
    "flushed": lambda nth: die_at(Index, "flush", nth, after=True),
    "touched": lambda nth: die_at(Manifest, "touched", nth, after=True),
    "built": lambda nth: die_at(Index, "open", nth, after=False),
    "opened": lambda nth: die_at(Index, "open", nth, after=True),
    "flipped": lambda nth: die_at(Shelf, "_flip", nth, after=True),
}


def main(log: str, ram: str, ssd: str, acks: str, scene: str) -> None:
    """Write for ever, moving the shard to and fro unless the scene is "write"."""
    shelf = Shelf.open("papers", log, ram, Tier.RAM, DIM, "seeded:1")
    if scene == "idle":
        os.kill(os.getpid(), signal.SIGKILL)
    what, _, nth = scene.partition(":")
    if nth:
        SCENES[what](int(nth))
    ledger = os.open(acks, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def work() -> None:
        version = 0
        while True:
            os.write(ledger, write(shelf, version).encode())
            version += 1

    threading.Thread(target=work, daemon=scene != "write").start()
    while scene != "write":
        shelf.rehome(ssd, Tier.SSD)
        shelf.rehome(ram, Tier.RAM)


if __name__ == "__main__":
    main(*sys.argv[1:])
