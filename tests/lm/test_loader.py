"""Copies beside decoding: one after another, and no faster than they may be."""

import threading
from concurrent.futures import CancelledError

import pytest

from actors.lm.loader import Bucket, Loader


class Clock:
    """A clock that goes on when somebody waits, and when the test says so."""

    def __init__(self):
        self.now_s = 100.0
        self.waited_s = 0.0

    def __call__(self):
        return self.now_s

    def wait(self, seconds):
        self.now_s += seconds
        self.waited_s += seconds


@pytest.fixture
def clock():
    """A clock at some time."""
    return Clock()


def test_a_bucket_keeps_its_rate(clock):
    """Ten pieces of 100 bytes at 1000 bytes a second take the time of nine: the first is free."""
    bucket = Bucket(1000, clock.wait, clock)
    for _ in range(10):
        bucket(100)
    assert clock.now_s == pytest.approx(100.9)


def test_what_copying_itself_takes_is_not_waited_for_again(clock):
    """A copy that is slower than the rate never waits."""
    bucket = Bucket(1000, clock.wait, clock)
    for _ in range(10):
        clock.now_s += 0.2
        bucket(100)
    assert clock.waited_s == 0


def test_idle_time_is_no_credit(clock):
    """After an hour of nothing, the next copy is as slow as any."""
    bucket = Bucket(1000, clock.wait, clock)
    bucket(100)
    clock.now_s += 3600
    for _ in range(10):
        bucket(100)
    assert clock.waited_s == pytest.approx(0.9)


def copied(pace):
    """Copy ten pieces of 100 bytes."""
    for _ in range(10):
        pace(100)
    return "copied"


@pytest.mark.parametrize(("busy", "waited_s"), [(True, 0.9), (False, 0.0)])
def test_a_copy_is_held_back_only_while_somebody_decodes(clock, busy, waited_s):
    """Beside decoding it keeps to the rate; alone it goes as fast as memory."""
    loader = Loader(lambda: busy, 1000, clock, clock.wait)
    assert loader.load(copied).result() == "copied"
    assert clock.waited_s == pytest.approx(waited_s)
    loader.close()


def test_copies_run_one_after_another_and_one_that_fails_harms_no_other(clock):
    """A future has what its own copy returned or raised."""
    loader, running = Loader(lambda: True, 1000, clock, clock.wait), []

    def copy(pace):
        running.append(threading.get_ident())
        pace(1)
        if len(running) == 2:
            raise ValueError("torn")
        return len(running)

    first, second, third = (loader.load(copy) for _ in range(3))
    assert (first.result(), third.result()) == (1, 3)
    with pytest.raises(ValueError, match="torn"):
        second.result()
    assert len(set(running)) == 1
    loader.close()


def test_closing_ends_the_copy_that_waits_and_takes_no_other():
    """The one that runs is finished at once, those behind it are cancelled."""
    loader, begun = Loader(lambda: True, 1e-3), threading.Event()

    def copy(pace):
        begun.set()
        return copied(pace)

    running, waiting = loader.load(copy), loader.load(copied)
    assert begun.wait(30)
    loader.close()
    assert running.result() == "copied"
    with pytest.raises(CancelledError):
        waiting.result()
    with pytest.raises(RuntimeError):
        loader.load(copied)
