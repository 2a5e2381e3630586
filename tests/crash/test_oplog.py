"""kill -9 at every crash point of a shard's log and of an index's manifest."""

import numpy as np
import pytest

from actors.rag.chunk import Chunk
from actors.rag.manifest import Manifest, forget
from actors.rag.oplog import START, Header, Oplog, Put, Remove, replay
from actors.rag.recovery import open_log
from tests.crash.points import crash

HEADER = Header("log-1", 3, "hash:1")


def put(number):
    """Return a document with a chunk and a vector of its own."""
    vectors = np.full((1, 3), number, dtype=np.float32)
    return Put(f"d{number}", f"v{number}", (Chunk(f"text é {number}", 0, 8, "Head", f"d{number}"),), vectors)


BATCHES = ([put(1), put(2)], [Remove("d1")], [put(3)], [put(4), Remove("d2"), put(5)])


def scene(path):
    """Return the scene that opens a log, or creates it, and appends batch by batch."""

    def play(done):
        log = open_log(path, 3, "hash:1")
        for batch in BATCHES:
            log.append(batch)
            done()

    return play


def names(ops):
    """Return the ops in short."""
    return [(type(op).__name__, op.document) for op in ops]


def recorded(path):
    """Return the ops that a new owner finds, in short; it can append, and finds that too."""
    log = open_log(path, 3, "hash:1")
    found = names(record.op for record in replay(path, START, log.seq))
    log.append([put(9)])
    log.close()
    again = Oplog.open(path)
    assert names(record.op for record in replay(path, START, again.seq)) == [*found, ("Put", "d9")]
    again.close()
    return found


@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
def test_a_log_killed_anywhere_holds_what_it_acknowledged(ram, torn, passed):
    """At each point the log is a beginning of what was appended, with all that was acknowledged in it."""
    everything = names(op for batch in BATCHES for op in batch)
    points = crash(scene(ram / "whole.log")).points
    passed(points)
    assert len(points) >= 2 * len(BATCHES)
    for at in range(len(points)):
        path = ram / f"{at}.log"
        run = crash(scene(path), at, torn=torn)
        assert run.killed
        acknowledged = sum(len(batch) for batch in BATCHES[: run.done])
        in_flight = sum(len(batch) for batch in BATCHES[: run.done + 1])
        found = recorded(path)
        assert found == everything[: len(found)]
        assert acknowledged <= len(found) <= in_flight, f"point {at} ({points[at]})"


def test_cutting_off_a_torn_tail_can_be_cut_off_itself(ram, passed):
    """A log that dies while its torn tail is removed opens the next time, with nothing lost."""

    def torn(path):
        points = crash(scene(ram / "whole.log")).points
        last = max(at for at, name in enumerate(points) if name == "pwrite64")
        assert crash(scene(path), last, torn=True).killed
        return lambda _done: Oplog.open(path)

    points = crash(torn(ram / "first.log")).points
    passed(points)
    assert len(points) >= 3
    for at in range(len(points)):
        (ram / "whole.log").unlink()
        path = ram / f"{at}.log"
        assert crash(torn(path), at).killed
        everything = names(op for batch in BATCHES[:-1] for op in batch)
        assert recorded(path)[: len(everything)] == everything, f"point {at} ({points[at]})"


FIRST = Manifest("log-1", "hash:1", 3, "RAM", 7, files={"segment": "digest"})
STEPS = (
    FIRST.write,
    FIRST.touched,
    lambda folder: Manifest("log-1", "hash:1", 3, "RAM", 9, files={"segment": "other"}).write(folder),
    forget,
)


@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
def test_a_manifest_killed_anywhere_is_the_one_before_or_the_next(ram, torn, passed):
    """An index is never described by half a manifest, nor by digests that no longer hold."""

    def play_in(folder):
        folder.mkdir()

        def play(done):
            for step in STEPS:
                step(folder)
                done()

        return play

    after = [None]
    whole = ram / "whole"
    whole.mkdir()
    for step in STEPS:
        step(whole)
        after.append(Manifest.read(whole))
    points = crash(play_in(ram / "watched")).points
    passed(points)
    assert len(points) > 3 * len(STEPS)
    for at in range(len(points)):
        run = crash(play_in(ram / f"{at}"), at, torn=torn)
        assert run.killed
        assert Manifest.read(ram / f"{at}") in after[run.done : run.done + 2], f"point {at} ({points[at]})"
