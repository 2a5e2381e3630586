"""The watchdog: work without a move for long enough trips it, once; idleness, slowness and pauses do not."""

import pytest

from actors.lm.pulse import Pulse
from actors.lm.watchdog import TICK_S, Watchdog


class World:
    """Something that is watched: whether it has work, and how often it has moved."""

    def __init__(self):
        self.work = True
        self.moves = 0
        self.tripped = []
        self.watchdog = Watchdog(lambda: self.work, lambda: self.moves, lambda: 10.0, self.tripped.append)

    def pass_by(self, ticks, *, moving=False):
        """Let ticks pass; return how often it tripped."""
        for _ in range(ticks):
            self.moves += moving
            if self.watchdog.look(TICK_S):
                break
        return len(self.tripped)


@pytest.fixture
def world():
    """Something with work, watched since a moment ago."""
    world = World()
    world.pass_by(1)
    return world


def test_work_without_a_move_trips(world):
    """After the limit it trips with the seconds that nothing moved."""
    assert world.pass_by(10) == 0
    assert world.watchdog.stalled_s == 10.0
    assert world.pass_by(5) == 1
    assert world.tripped == [11.0]


def test_what_moves_does_not_trip(world):
    """However long there is work, one move per tick is enough, and it counts from the last one."""
    assert world.pass_by(100, moving=True) == 0
    assert world.watchdog.stalled_s == 0.0
    assert world.pass_by(9) == 0


def test_nothing_to_do_is_no_stall(world):
    """An idle decoder may stand still for ever."""
    world.work = False
    assert world.pass_by(100) == 0
    assert world.watchdog.stalled_s == 0.0


def test_a_paused_process_is_no_stall(world):
    """A process that was stopped for an hour has lost one tick, not an hour."""
    assert not world.watchdog.look(3600.0)
    assert world.watchdog.stalled_s <= 2 * TICK_S


def test_the_pulse_tells_quantiles_and_speed():
    """Decode steps alone make the quantiles; all tokens make the speed, over the seconds they took."""
    now_s = [0.0]
    pulse = Pulse(lambda: now_s[0])
    assert (pulse.decode_s(0.5), pulse.tokens_per_s()) == ((0.0,), 0.0)
    for index in range(100):
        now_s[0] += 0.05
        pulse.add(0.01 * (1 + (index == 99)), 2, decode=True)
    pulse.add(3.0, 1, decode=False)
    assert pulse.decode_s(0.5, 0.99) == (0.01, 0.02)
    assert pulse.tokens_per_s() == pytest.approx(201 / 4.96)
    assert pulse.moves == 101
    now_s[0] += 60
    assert pulse.tokens_per_s() == 0.0
