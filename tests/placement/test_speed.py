"""How long copies are said to take: learned hop by hop, else from their like, else as assumed."""

import pytest

from placement.speed import Speed, learned, seconds
from placement.state import State
from tests.placement.brain_lab import ATTIC_RAM, ATTIC_SSD, MIB, RAM, SSD, VRAM


def test_latency_and_bandwidth_are_told_apart_once_sizes_differ():
    """Copies of 10 and 100 MiB over a hop of 50 ms and 100 MiB/s foretell one of 200 MiB."""
    speed = Speed()
    for size in (10, 100) * 20:
        speed = speed.heard(size * MIB, 0.05 + size / 100)
    assert speed.seconds(200 * MIB) == pytest.approx(2.05, rel=0.01)


def test_copies_of_one_size_foretell_in_proportion():
    """Nothing is known of the latency, so twice the bytes take twice as long."""
    assert Speed().heard(10 * MIB, 0.2).seconds(20 * MIB) == pytest.approx(0.4)


def test_a_hop_that_was_never_made_is_judged_by_its_like():
    """The disk of another node is taken to be like this one's, and a hop to another tier is not."""
    state = State(epoch=1, speeds=learned({}, SSD, RAM, 100 * MIB, 2.0))
    assert seconds(state, ATTIC_SSD, ATTIC_RAM, 50 * MIB) == pytest.approx(1.0)
    assert seconds(state, RAM, VRAM, 50 * MIB) < 0.1


def test_a_slow_disk_makes_its_own_hop_slow_within_a_few_copies():
    """A hop goes by its own copies, and the latest count most."""
    speeds = learned({}, SSD, RAM, 100 * MIB, 0.1)
    for _ in range(60):
        speeds = learned(speeds, SSD, RAM, 100 * MIB, 1.0)
    assert seconds(State(epoch=1, speeds=speeds), SSD, RAM, 100 * MIB) > 0.9
