"""More roles in use than seats: whoever waits gets a turn, and nobody is cut off for it."""

import math
import random
from dataclasses import replace

import pytest

from placement.faults import CALM
from placement.machine import Machine
from placement.messages import Copied, Copy, Drop, Dropped, DropRefused, Grant, Seen, Tick
from placement.scenery import Scene
from placement.simulate import Play
from placement.state import Room
from tests.placement.brain_lab import BRISK, DESK, LIMITS, MIB, SSD, VRAM, Lab, role

A, B, C, D = (role(name) for name in "abcd")
HOT, COLD = (A, B), C
CALLERS = 3
PATIENT = replace(LIMITS, drain_after_s=0.5)


def crowded(**changes):
    """A lab whose two seats are taken by A, then B, both in use and granted long ago."""
    lab = Lab(**{"limits": PATIENT, **changes}).join()
    lab.register(A, B, C, D)
    for spec in HOT:
        lab.now_s += 10
        lab.do(lab.want(spec))
    lab.now_s += 10
    in_use(lab, *HOT)
    return lab


def in_use(lab, *specs):
    """Tell a beat that shows these in VRAM, each with a request in flight."""
    lab.now_s += 0.01
    return lab.see(VRAM, *specs, asked_s=lab.now_s - 0.001, seen=Seen(leases=1))


def drained(commands):
    """Return the items that are to be drained."""
    return [command.item for command in commands if isinstance(command, Drop) and command.drains]


def after(lab, seconds):
    """Let time pass up to a Tick; return the commands."""
    lab.now_s += seconds
    return lab.tell(Tick())


def test_a_want_waits_a_moment_and_then_has_the_oldest_seat_drained():
    """Not at once, because a seat may come free; then the item that has had its seat longest goes."""
    lab = crowded()
    assert lab.want(C) == []
    assert after(lab, 0.4) == []
    (drop,) = after(lab, 0.2)
    assert (drop.item, drop.place, drop.drains) == (A.item, VRAM, True)
    assert drop.reason == "has had its seat longest, and c waits for one: asked for by role c"
    (copy,) = lab.tell(Dropped(drop.op))
    assert (copy.item, copy.target) == (C.item, VRAM)


def test_a_seat_that_comes_free_meanwhile_is_taken_instead():
    """Nobody who is in use is drained when somebody idle can go."""
    lab = crowded()
    lab.want(C)
    lab.now_s += 0.2
    lab.see(VRAM, A, B, asked_s=lab.now_s - 0.001, seen=Seen(leases=0))
    assert drained(after(lab, 1.0)) == []
    assert lab.phase(A, VRAM) == "leaving"


def test_one_is_drained_at_a_time():
    """Two wants at once cost one seat first: the second is drained when the first is gone."""
    lab = crowded()
    lab.want(C)
    lab.want(D)
    (drop,) = after(lab, 1.0)
    assert after(lab, 1.0) == []
    commands = lab.tell(Dropped(drop.op))
    assert [type(command) for command in commands] == [Copy, Drop]
    assert (commands[0].item, drained(commands)) == (C.item, [B.item])


def test_who_was_drained_waits_behind_those_who_wait_already():
    """Its callers' wants come after the one that it made room for, in the order in which they came."""
    lab = crowded()
    lab.want(C)
    (drop,) = after(lab, 1.0)
    assert lab.want(A) == []
    (copy,) = lab.tell(Dropped(drop.op))
    assert copy.item == C.item
    granted = lab.tell(Copied(copy.op, C.nbytes, 0.1))
    assert [command.item for command in granted if isinstance(command, Grant)] == [C.item]
    in_use(lab, B, C)
    assert drained(after(lab, 1.0)) == [B.item]


def test_a_seat_that_was_just_taken_is_not_drained():
    """An item serves for as long as a grant holds before another gets its turn: no ping-pong."""
    lab = crowded()
    lab.do(lab.want(C))
    (drop,) = after(lab, 1.0)
    (copy,) = lab.tell(Dropped(drop.op))
    lab.tell(Copied(copy.op, C.nbytes, 0.1))
    in_use(lab, B, C)
    lab.want(A)
    lab.want(D)
    (first,) = after(lab, 1.0)
    assert first.item == B.item
    (copy,) = lab.tell(Dropped(first.op))
    lab.tell(Copied(copy.op, A.nbytes, 0.1))
    in_use(lab, C, A)
    assert drained(after(lab, 0.5)) == []
    assert drained(after(lab, LIMITS.hold_s)) == [C.item]


def test_an_item_that_does_not_finish_serves_on_and_another_is_drained():
    """Long requests make the engine refuse after a while: then it is the next one's turn."""
    lab = crowded()
    lab.want(C, within_s=300.0)
    (drop,) = after(lab, 1.0)
    in_use(lab, A, B)
    commands = lab.tell(DropRefused(drop.op, 1))
    assert lab.phase(A, VRAM) == "ready"
    assert drained(commands) == [B.item]


@pytest.mark.parametrize("kept", ["pinned", "other base"])
def test_a_seat_that_cannot_help_or_must_stay_is_not_drained(kept):
    """A pin at home, and the seats of another base, are left alone however long somebody waits."""
    changes = {"pinned": {"home": VRAM, "pinned": True}, "other base": {"base": "big"}}[kept]
    stays, wanting = role("stays", **changes), role("wanting")
    rooms = {**DESK, VRAM: Room(200 * MIB, 100 * MIB, {"small": 1, "big": 1})}
    lab = Lab(limits=PATIENT).join(rooms)
    lab.do(lab.register(stays, wanting, A))
    lab.do(lab.want(stays))
    if kept == "other base":
        lab.do(lab.want(A))
    lab.now_s += 10
    in_use(lab, *((stays, A) if kept == "other base" else (stays,)))
    lab.want(wanting)
    assert stays.item not in drained(after(lab, 1.0))


def play(seed, **limits):
    """A calm lab with two seats, both hot, and time for the callers to come."""
    rooms = {"desk": {VRAM: Room(200 * MIB, 100 * MIB, {"small": 2}), SSD: Room(900 * MIB)}}
    lab = Scene(rooms, (A, B, C, D))
    run = Play(lambda epoch: Machine(replace(BRISK, **limits), epoch), lab, random.Random(seed), CALM)
    run.start()
    return run


def crowd(run, items, seconds):
    """Let three callers for each item ask again as soon as they are answered; return the wants it took."""
    wants = []
    for _ in range(int(seconds * 10)):
        for spec in items:
            held = run.world.store(VRAM).held.get(spec.item)
            waiting = list(run.world.wants.values()).count(spec.item)
            free = CALLERS - waiting - (held.leases if held else 0)
            wants += [run.ask(spec.item, 20.0) for _ in range(free)]
        run.wait(0.1)
    return [want for want in wants if want]


@pytest.mark.parametrize("seed", range(20))
def test_a_cold_role_gets_its_turn_under_a_hot_load_on_all_seats(seed):
    """Within a few answers' time, and every caller of the hot roles is served too."""
    run = play(seed)
    hot = crowd(run, HOT, 5.0)
    cold = run.want(COLD.item, 8.0)
    hot += crowd(run, HOT, 25.0)
    run.wait(20.0)
    outcome = run.outcome()
    assert outcome.ended[cold] == "granted"
    assert {outcome.ended[want] for want in hot} == {"granted"}
    assert outcome.violations == outcome.misses == ()


@pytest.mark.parametrize("seed", range(10))
def test_four_hot_roles_share_two_seats(seed):
    """Each is granted again and again, and none waits for its deadline."""
    run = play(seed)
    wants = crowd(run, (A, B, C, D), 40.0)
    run.wait(20.0)
    outcome = run.outcome()
    assert {outcome.ended[want] for want in wants} == {"granted"}
    served = [command.item for command in outcome.commands if isinstance(command, Copy)]
    assert min(served.count(spec.item) for spec in (A, B, C, D)) >= 3
    assert outcome.violations == outcome.misses == ()


def test_without_drains_a_cold_role_would_starve():
    """The crowd of these tests really leaves no seat idle."""
    run = play(0, drain_after_s=math.inf)
    crowd(run, HOT, 5.0)
    cold = run.want(COLD.item, 8.0)
    crowd(run, HOT, 10.0)
    assert run.outcome().ended[cold] == "TRC012"
