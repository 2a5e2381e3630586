"""Recordings: which steps are recorded, which are replayed, and when nothing is recorded any more."""

import pytest
import torch

from actors.lm.recordings import AFTER, KEPT, Recordings


class Work:
    """Steps that write a number into their memory, and a capture that tells what was recorded."""

    def __init__(self):
        self.recordings = Recordings(self.capture)
        self.memory = torch.zeros(2)
        self.value = 1.0
        #: in turn: "run" for a step, "record", "replay"
        self.done = []

    def step(self):
        """Write what the value is now."""
        self.done.append("run")
        return self.memory.fill_(self.value)

    def capture(self, _step):
        """Record without running."""
        self.done.append("record")

        def replay():
            self.done.append("replay")
            return self.memory.fill_(self.value)

        return replay

    def run(self, key, times=1):
        """Run steps of a key; return what the last one gave."""
        for _ in range(times):
            out = self.recordings.run(key, self.step)
        return out.tolist()


@pytest.fixture
def work():
    """Steps of which nothing is recorded yet."""
    return Work()


def test_a_step_is_recorded_when_its_key_has_come_often_enough(work):
    """It is run until then, compared with its replay once, and only replayed afterwards."""
    work.run("a", AFTER)
    assert work.done == ["run"] * AFTER + ["record", "replay"]
    work.value = 5.0
    assert work.run("a") == [5.0, 5.0]
    assert work.done[AFTER + 2 :] == ["replay"]


def test_keys_are_counted_apart(work):
    """A key that has not come before is run, however often others did."""
    work.run("a", AFTER)
    work.run("b", AFTER - 1)
    assert work.done[AFTER + 2 :] == ["run"] * (AFTER - 1)
    assert len(work.recordings) == 1


def test_the_recording_that_was_least_recently_used_is_forgotten(work):
    """No more than KEPT are held; the forgotten one is recorded anew."""
    for key in range(KEPT):
        work.run(key, AFTER)
    work.run(0)
    work.run("new", AFTER)
    assert len(work.recordings) == KEPT
    work.done.clear()
    work.run(0)
    work.run(1)
    assert work.done == ["replay", "run"]


def test_a_recording_that_fails_ends_recording_and_no_step(work, monkeypatch):
    """The step's own result stands, steps are run from then on, and `why` says what was raised."""

    def refuse(_step):
        raise RuntimeError("not on this device")

    monkeypatch.setattr(work.recordings, "_capture", refuse)
    assert work.run("a", AFTER) == [1.0, 1.0]
    work.value = 2.0
    assert work.run("a", 2 * AFTER) == [2.0, 2.0]
    assert "not on this device" in work.recordings.why
    assert work.done == ["run"] * 3 * AFTER


@pytest.mark.parametrize(
    "wrong", [lambda memory: memory, lambda memory: memory.fill_(7.0)], ids=["nothing", "another number"]
)
def test_a_replay_that_gives_other_bits_is_never_used(work, monkeypatch, wrong):
    """One that does nothing is as wrong as one that writes something else; the step's result stands."""
    monkeypatch.setattr(work.recordings, "_capture", lambda _step: lambda: wrong(work.memory))
    assert work.run("a", AFTER) == [1.0, 1.0]
    assert "other bits" in work.recordings.why
    work.value = 3.0
    assert work.run("a") == [3.0, 3.0]


def test_a_step_that_gives_nan_is_not_recorded(work):
    """A broken adapter's answer cannot be compared, and is no reason to give up recording."""
    work.value = torch.nan
    work.run("a", AFTER)
    work.value = 1.0
    work.run("a")
    assert work.done == ["run"] * (AFTER + 1) + ["record", "replay"]
    assert not work.recordings.why
