"""What comes up before anybody asks: who is likely to speak next, and what spare memory keeps near."""

import pytest

from placement.habits import LIKELY, ROWS, Habits, followed, said, told
from placement.heat import soon
from placement.messages import (
    Beat,
    Copy,
    CopyFailed,
    Drop,
    MoveOrdered,
    Removed,
    Seen,
    Tick,
    UnloadOrdered,
)
from placement.speed import learned
from placement.state import Limits, Room
from tests.placement.brain_lab import ATTIC_SSD, DESK, MIB, RAM, SSD, VRAM, Lab, role

TABLE = [role(name) for name in "abcd"]
SPEAKERS = [role(f"speaker{number}") for number in range(12)]


def rounds(lab, specs, times):
    """Have a table speak in turn, each by a want, five seconds a turn."""
    for _ in range(times):
        for spec in specs:
            lab.do(lab.want(spec))
            lab.now_s += 5.0
            lab.do(lab.tell(Beat("desk", lab.now_s, {})))
            lab.do(lab.tell(Tick()))


def desk(seats, capacity=100 * MIB):
    """Return a desk with so many seats, and so many bytes for who sits on them."""
    return {**DESK, VRAM: Room(100 * MIB + capacity, 100 * MIB, {"small": seats})}


def speaking(count=9, seats=3, **kwargs):
    """Return a lab of nine speakers for three seats (or so), who spoke in turn for twelve rounds."""
    lab = Lab(**kwargs).join(desk=desk(seats))
    lab.register(*SPEAKERS[:count])
    rounds(lab, SPEAKERS[:count], 12)
    return lab


def reborn(habits):
    """Return a lab that was started anew with habits of before: nobody has spoken since."""
    lab = Lab(epoch=2)
    lab.machine.remember(said(told(habits)))
    return lab.join(desk=desk(3))


def near(lab, spec):
    """Return the phase of an item in main memory."""
    return lab.phase(spec, RAM)


def test_the_next_speaker_of_a_learned_order_is_brought_up():
    """Nobody announces it: after some rounds it is in its seat before its turn, and the reason says why."""
    lab = speaking()
    commands = lab.do(lab.want(SPEAKERS[0]))
    assert lab.phase(SPEAKERS[1], VRAM) == "ready"
    told = [each.reason for each in commands if isinstance(each, Copy) and each.target == VRAM]
    assert [reason.endswith("% likely to speak soon, after speaker0") for reason in told] == [True]


def test_a_lab_that_was_started_anew_brings_up_whom_its_habits_tell():
    """Nobody but the leader has spoken since the start."""
    lab = reborn(speaking().state.habits)
    lab.register(*SPEAKERS[:9])
    lab.do(lab.want(SPEAKERS[0]))
    assert lab.phase(SPEAKERS[1], VRAM) == "ready"
    assert soon(lab.state, SPEAKERS[1].item) > LIKELY


def test_a_new_version_of_the_next_speaker_is_brought_up():
    """Habits are a role's, whatever its files are."""
    lab, new = speaking(), role("speaker1", item="speaker1@2")
    lab.register(new)
    lab.do(lab.tell(Removed(SPEAKERS[1].item)))
    lab.do(lab.want(SPEAKERS[0]))
    assert lab.phase(new, VRAM) == "ready"


def test_who_follows_is_brought_up_though_its_own_row_was_given_up():
    """The table has no place for all roles: the leader's row still names one whose row is gone."""
    names = [f"r{number}" for number in range(ROWS)]
    habits = Habits()
    for name in (*["leader", "next"] * 8, *names[: ROWS // 2], "leader", *names[ROWS // 2 :]):
        habits = followed(habits, name)
    assert "next" not in habits.rows
    lab, leader, following = reborn(habits), role("leader"), role("next")
    lab.register(leader, following)
    lab.do(lab.want(leader))
    assert lab.phase(following, VRAM) == "ready"


def test_one_seat_at_a_time_is_taken_for_those_foretold():
    """While the one who makes room for the first is leaving, nobody makes room for the second."""
    lab = speaking(12, seats=6)
    lab.now_s += 5.0
    commands = lab.want(SPEAKERS[0])
    for _ in range(3):
        lab.now_s += 1.0
        commands += lab.tell(Tick())
    assert [command.place for command in commands if isinstance(command, Drop)] == [VRAM]


def test_what_lost_its_seat_is_kept_near():
    """Its bytes are read from the disk once more, unasked, and the next want comes from memory."""
    lab = Lab().join()
    lab.register(*TABLE)
    for spec in TABLE[:3]:
        lab.do(lab.want(spec))
        lab.now_s += 5.0
    lab.do(lab.tell(Tick()))
    lost = next(spec for spec in TABLE[:3] if lab.phase(spec, VRAM) is None)
    assert near(lab, lost) == "ready"
    ups = [command for command in lab.want(lost) if isinstance(command, Copy)]
    assert all(copy.source == RAM for copy in ups)


def test_what_nobody_asked_for_stays_where_the_file_says():
    """Spare memory is no reason to copy."""
    lab = Lab().join()
    lab.register(*TABLE)
    assert lab.wait(30) == []


def test_nothing_is_kept_near_where_the_file_says_not_to_warm_ahead():
    """`warm_ahead: false` leaves memory to what rests there."""
    lab = Lab(limits=Limits(foresees=False)).join()
    lab.register(*TABLE)
    rounds(lab, TABLE, 3)
    assert all(near(lab, spec) is None for spec in TABLE)


def test_nobody_who_rests_in_memory_leaves_for_who_is_kept_near():
    """Only surplus makes room."""
    lives = role("lives", home=RAM, nbytes=90 * MIB)
    lab = Lab().join()
    lab.do(lab.register(lives, *TABLE))
    rounds(lab, TABLE, 3)
    assert near(lab, lives) == "ready"


def test_what_a_person_unloaded_is_not_kept_near():
    """The order stands until the next use."""
    lab, spec = Lab().join(), TABLE[0]
    lab.register(spec)
    lab.do(lab.want(spec))
    lab.now_s += 5.0
    lab.do(lab.tell(UnloadOrdered(spec.item, "the user")))
    lab.do(lab.tell(Tick()))
    assert near(lab, spec) is None


def test_what_a_person_moved_to_the_disk_is_not_kept_near_until_it_is_asked_for():
    """Whoever sends it down does not expect it; the next question says otherwise."""
    lab, spec = Lab().join(), TABLE[0]
    lab.register(*TABLE)
    lab.do(lab.want(spec))
    lab.now_s += 5.0
    seated = Beat("desk", lab.now_s, {VRAM: {spec.item: Seen(hits=1, idle_s=2.0)}})
    lab.do(lab.tell(MoveOrdered(spec.item, SSD, "the user")))
    lab.tell(seated)
    lab.do(lab.tell(Tick()))
    assert near(lab, spec) is None
    assert spec.item in lab.machine.state.lowered
    lab.do(lab.want(spec))
    assert spec.item not in lab.machine.state.lowered


def test_memory_that_is_short_keeps_who_is_asked_for_more():
    """Who is rarely asked for leaves for who is asked for often; nothing goes to and fro."""
    lab = Lab().join(desk={**DESK, RAM: Room(11 * MIB)})
    lab.register(*TABLE)
    rounds(lab, [TABLE[0], TABLE[1], TABLE[2], TABLE[0], TABLE[1], TABLE[3]], 6)
    for _ in range(3):
        lab.now_s += 1.0
        lab.do(lab.tell(Tick()))
    lab.now_s += 1.0
    assert [command for command in lab.tell(Tick()) if isinstance(command, Copy | Drop)] == []


@pytest.mark.parametrize("hits", [1, 60], ids=["cool", "hot"])
@pytest.mark.parametrize(("seats", "nbytes"), [(3, 100 * MIB), (9, 35 * MIB)], ids=["seats", "bytes"])
def test_a_hot_seat_is_not_taken_by_a_guess(seats, nbytes, hits):
    """Who is foretold must be worth more than whoever leaves for it, whether seats are short or bytes."""
    lab = Lab(limits=Limits(high={})).join(desk=desk(seats, nbytes))
    lab.register(*SPEAKERS[:9])
    rounds(lab, SPEAKERS[:9], 12)
    seated = [spec for spec in SPEAKERS if lab.phase(spec, VRAM) == "ready"]
    lab.now_s += 1.0
    commands = lab.see(VRAM, *seated, seen=Seen(hits=hits)) + lab.want(SPEAKERS[0])
    likely = lab.state.habits.likely
    assert [spec for spec in SPEAKERS[:9] if spec not in seated and likely.get(spec.name, 0.0) >= LIKELY]
    touched = [command for command in commands if isinstance(command, Copy | Drop)]
    assert [(type(each), each.place) for each in touched] == ([(Drop, VRAM)] if hits == 1 else [])


def test_who_was_sent_down_is_not_brought_up_by_a_guess():
    """Whoever moved it to the disk does not expect it; its turn in the order is no use of it."""
    lab = speaking()
    lab.do(lab.tell(MoveOrdered(SPEAKERS[1].item, SSD, "the user")))
    lab.do(lab.want(SPEAKERS[0]))
    assert lab.state.habits.likely["speaker1"] > LIKELY
    assert lab.phase(SPEAKERS[1], VRAM) is None


def test_a_move_that_failed_leaves_nobody_sent_down():
    """It is where it was, and may be kept near as before."""
    lab, spec = Lab().join(), TABLE[0]
    lab.register(spec)
    (copy,) = lab.tell(MoveOrdered(spec.item, ATTIC_SSD, "the user"))
    assert spec.item in lab.state.lowered
    lab.tell(CopyFailed(copy.op, "STO003", "no space left on device", permanent=True))
    assert spec.item not in lab.state.lowered


def measured(direct_s):
    """Return a lab whose copies over memory took 0.11 s in all, and the direct ones so long; `d` waits."""
    lab = Lab().join()
    lab.register(*TABLE)
    state, nbytes = lab.machine.state, TABLE[0].nbytes
    speeds = learned(learned({}, SSD, RAM, nbytes, 0.1), RAM, VRAM, nbytes, 0.01)
    state.speeds = learned(speeds, SSD, VRAM, nbytes, direct_s)
    return lab


def test_a_wanted_item_goes_to_its_seat_directly_where_that_is_faster():
    """The way over memory would make its caller wait twice as long."""
    (copy,) = measured(0.05).want(TABLE[0])
    assert (copy.source, copy.target) == (SSD, VRAM)


def test_who_was_asked_for_by_chance_is_no_more_likely_than_its_share():
    """Less than LIKELY speaks for nobody, however few uses there were."""
    lab = speaking(12, seats=6)
    told = {spec: lab.state.habits.likely.get(spec.name, 0.0) for spec in SPEAKERS}
    doubtful = [spec for spec in SPEAKERS if 0.19 < told[spec] < LIKELY]
    assert doubtful
    assert all(soon(lab.state, spec.item) < told[spec] for spec in doubtful)
