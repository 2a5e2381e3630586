"""Memory that runs short: what goes, in which order, what stays, and when it comes back."""

from dataclasses import replace

import pytest

from placement.messages import Beat, Copied, Copy, Drop, NodeLost, PinSet, Removed, Seen
from placement.pressure import level
from placement.rows import rows
from placement.state import Gauge, Room
from tests.placement.brain_lab import DESK, MIB, RAM, SSD, VRAM, Lab, role, shard


def measure(lab, place, *others_mib, total=100 * MIB, source="psutil"):
    """Tell a beat that shows what is there, and what others take, by one or more gauges."""
    lab.now_s += 0.1
    held = {
        item: Seen(replica.leases, lab.now_s - replica.used_s, replica.hits)
        for item in lab.state.shelves.get(place, {})
        if (replica := lab.state.replicas[item, place]).phase == "ready"
    }
    gauges = tuple(Gauge(total, int(mib * MIB), source) for mib in others_mib)
    return lab.tell(Beat(place.node, lab.now_s, {place: held}, {place: gauges} if gauges else {}))


def residents(*names, home=RAM, **changes):
    """Return a lab in which these adapters are at home, each used a second after the one before."""
    lab = Lab().join()
    specs = [role(name, home=home, **changes) for name in names]
    for spec in specs:
        lab.do(lab.register(spec))
        lab.now_s += 1.0
    return lab, specs


def dropped(commands):
    """Return what the drops drop, in order."""
    return [(command.item, command.place) for command in commands if isinstance(command, Drop)]


def test_others_that_take_the_memory_drive_out_who_was_idle_longest():
    """Over the high mark the longest idle go until the place is under the low one."""
    lab, (one, *_) = residents("one", "two", "three")
    assert measure(lab, RAM, 65) == []
    drops = measure(lab, RAM, 66)
    assert dropped(drops) == [(one.item, RAM)]
    assert lab.tell(Beat("desk", lab.now_s, {})) == []


def test_the_reason_says_the_numbers_the_source_and_why_this_one():
    """Whoever reads the story knows what was full, by whose word, and why this item went."""
    lab, _ = residents("one", "two", "three")
    (drop,) = measure(lab, RAM, 66)
    assert drop.reason == (
        "desk:RAM is 96% full (96.0 MiB of 100.0 MiB by psutil, 66.0 MiB of them by others), "
        "down to 90%: resting there, asked for 0.0 times of late "
        "(a memory of 6400 asks), last 3.1s ago; 0% likely within the next 2 asks; 12ms to bring it back"
    )


def test_surplus_goes_before_what_rests_there():
    """A guest that was used a moment ago still goes before a resident."""
    lab, home, guest = Lab().join(), role("home", home=VRAM), role("guest", nbytes=20 * MIB)
    lab.do(lab.register(home, guest))
    lab.now_s += 100.0
    lab.do(lab.want(guest))
    lab.now_s += 5.0
    assert dropped(measure(lab, VRAM, 56, total=200 * MIB, source="NVML")) == [(guest.item, VRAM)]


def test_the_fullest_gauge_decides():
    """RAM is short when the object store is, whatever else is free."""
    lab, _ = residents("one", "two", "three")
    assert len(dropped(measure(lab, RAM, 0, 66))) == 1


@pytest.mark.parametrize("why", ["leased", "pinned", "wanted", "durable", "fetched"])
def test_what_must_stay_stays_however_full_the_memory(why):
    """No pressure frees what is in use, pinned, wanted, durable or being read."""
    lab, (spec,) = residents("a", base="none" if why == "wanted" else "small")
    if why == "pinned":
        lab.tell(PinSet(spec.item, pinned=True, cause="user"))
    if why in {"wanted", "fetched"}:
        lab.want(spec)
    place = SSD if why == "durable" else RAM
    if why == "leased":
        shown = {place: {spec.item: Seen(leases=1)}}
        lab.now_s += 1.0
        full = {place: (Gauge(100 * MIB, 99 * MIB, "psutil"),)}
        assert lab.tell(Beat("desk", lab.now_s, shown, full)) == []
    else:
        assert dropped(measure(lab, place, 99)) == []
    assert lab.phase(spec, place) == "ready"


def test_a_pinned_role_keeps_its_seat_while_all_others_lose_theirs():
    """Others that fill the device, and a want for a seat, drive out who is not pinned and nobody else."""
    lab = Lab().join()
    pinned, idle, late = role("pinned", home=VRAM, pinned=True), role("idle"), role("late")
    lab.do(lab.register(pinned, idle, late))
    lab.do(lab.want(idle))
    lab.now_s += 60.0
    lab.do(lab.want(late))
    lab.now_s += 60.0
    assert (lab.phase(idle, VRAM), lab.phase(late, VRAM)) == (None, "ready")
    lab.do(measure(lab, VRAM, 199, total=200 * MIB))
    assert lab.phase(late, VRAM) is None
    assert lab.phase(pinned, VRAM) == "ready"


def test_what_is_leaving_counts_as_gone():
    """A second beat of a full place sends nobody else away."""
    lab, _ = residents("one", "two", "three")
    assert len(measure(lab, RAM, 66)) == 1
    assert measure(lab, RAM, 66) == []


def test_who_was_driven_out_comes_back_when_there_is_room_under_the_mark():
    """Nothing flaps: under the low mark at first, under the high one when it was calm for a while."""
    lab, (one, *_) = residents("one", "two", "three")
    lab.do(measure(lab, RAM, 66))
    assert lab.phase(one, RAM) is None
    assert measure(lab, RAM, 62) == []
    (row, *_) = rows(lab.state, lab.now_s, lab.limits)
    assert "desk:RAM is 82%" in row.why
    assert "over 90%" in row.why
    lab.now_s += lab.limits.calm_s
    back = measure(lab, RAM, 62)
    assert [(copy.item, copy.target) for copy in back] == [(one.item, RAM)]


def test_a_home_that_others_fill_is_not_filled_further():
    """An item waits on its SSD when its RAM would be over the high mark with it, and `ps` says why."""
    lab = Lab().join()
    measure(lab, RAM, 90)
    spec = role("a", home=RAM)
    assert lab.register(spec) == []
    assert rows(lab.state, lab.now_s)[0].why == (
        "desk:RAM is 90% full (90.0 MiB of 100.0 MiB by psutil, 90.0 MiB of them by others), "
        "and with 10.0 MiB more it would be over 95%"
    )


def test_a_want_goes_over_the_mark_but_not_over_the_memory():
    """Who asks gets what is really free, and not what others have taken."""
    lab, spec = Lab().join(), role("a")
    lab.register(spec)
    measure(lab, VRAM, 91, total=200 * MIB, source="NVML")
    assert lab.want(spec) == []
    commands = measure(lab, VRAM, 90, total=200 * MIB, source="NVML")
    assert [type(command) for command in commands] == [Copy]


def test_a_want_that_others_crowd_out_is_refused_with_the_numbers():
    """The refusal names who measured and how much is taken by others."""
    lab, spec = Lab().join(), role("a")
    lab.register(spec)
    measure(lab, VRAM, 95, total=200 * MIB, source="NVML")
    lab.want(spec, within_s=5.0)
    lab.now_s += 6.0
    (refused,) = measure(lab, VRAM, 95, total=200 * MIB, source="NVML")
    assert refused.code == "TRC012"
    full = "98% full (195.0 MiB of 200.0 MiB by NVML, 95.0 MiB of them by others)"
    assert f"desk:VRAM(cpu) is {full}" in refused.reason


def test_the_only_index_of_a_shard_goes_down_before_it_leaves():
    """A shard answers all the time: its index is on the SSD before it leaves the RAM."""
    lab, spec = Lab().join(), shard("s", home=RAM)
    lab.do(lab.register(spec))
    (copy,) = measure(lab, RAM, 94)
    assert (copy.target, copy.reason.rpartition("; ")[2]) == (SSD, "it goes to desk:SSD first")
    (drop,) = lab.tell(Copied(copy.op, spec.nbytes, 0.1))
    assert (drop.item, drop.place) == (spec.item, RAM)
    lab.do([drop])
    assert measure(lab, RAM, 94) == []
    assert lab.state.served_at(spec.item) == SSD
    assert "desk:RAM is 94%" in rows(lab.state, lab.now_s)[0].why
    lab.now_s += lab.limits.calm_s
    back = measure(lab, RAM, 10)
    assert [(copy.item, copy.target) for copy in back] == [(spec.item, RAM)]


def test_an_index_in_vram_goes_to_the_ram_of_its_machine():
    """The next tier down takes it, if it is not pressed itself."""
    lab, spec = Lab().join(), shard("s", home=VRAM, serves_at=(VRAM,))
    lab.do(lab.register(spec))
    (copy,) = measure(lab, VRAM, 94, total=200 * MIB, source="NVML")
    assert copy.target == RAM


def test_a_budget_that_homes_fill_is_at_rest():
    """Nobody measures, the homes fit, and so nothing moves however full the budget is."""
    lab = Lab().join(desk={**DESK, RAM: Room(30 * MIB)})
    specs = [role(name, home=RAM) for name in ("one", "two", "three")]
    lab.do(lab.register(*specs))
    assert level(lab.state, RAM).share == 1.0
    assert lab.wait(500) == []


def test_a_full_budget_sheds_surplus_that_was_idle_for_a_while():
    """By the ledger a guest goes before its time only when the budget is over its high mark."""
    lab = Lab().join()
    one, two = (role(name, nbytes=45 * MIB, idle_s=10_000.0) for name in ("one", "two"))
    lab.register(one, two)
    lab.do(lab.want(one))
    lab.now_s += 5.0
    lab.do(lab.want(two))
    assert lab.wait(lab.limits.calm_s - 10.0) == []
    (drop,) = lab.wait(20)
    assert drop.item == one.item
    assert "95% full (190.0 MiB of 200.0 MiB by ledger), down to 85%: not resting there" in drop.reason


def test_a_place_that_is_no_longer_measured_is_judged_by_its_budget():
    """A gauge that fell silent says nothing any more."""
    lab, _ = residents("one")
    measure(lab, RAM, 99)
    measure(lab, RAM)
    assert not lab.state.gauges
    assert level(lab.state, RAM).gauge.source == "ledger"


def test_a_lost_machine_has_no_gauges():
    """What was measured before the loss is not true after it."""
    lab, _ = residents("one")
    measure(lab, RAM, 99)
    lab.tell(NodeLost("desk", "it burns"))
    assert not lab.state.gauges
    assert not lab.state.pressed


def test_an_index_takes_bytes_of_vram_and_no_seat():
    """Two seats are for two adapters, whatever index lies beside them."""
    lab = Lab().join()
    index, one, two = shard("s", home=VRAM, serves_at=(VRAM,)), role("one"), role("two")
    lab.do(lab.register(index, one, two))
    lab.do(lab.want(one))
    lab.do(lab.want(two))
    assert all(lab.phase(spec, VRAM) == "ready" for spec in (index, one, two))
    assert lab.state.used(VRAM) == 25 * MIB


def test_a_new_version_is_shown_before_the_one_that_leaves():
    """While a version replaces another under one name, `ps` reads the new one first."""
    lab, old = Lab().join(), role("a", home=RAM)
    lab.do(lab.register(old))
    new = replace(old, item=type(old.item)("a@2"))
    lab.do(lab.register(new))
    lab.tell(Removed(old.item))
    assert [(row.item, row.phase) for row in rows(lab.state, lab.now_s)] == [
        ("a@2", "cold"),
        ("a@1", "removing"),
    ]
