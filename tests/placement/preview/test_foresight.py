"""A plan is what the very same Machine does when it is told the file and nothing goes wrong."""

from dataclasses import replace

import pytest

from placement.messages import Beat, Copy, Drop, Seen
from placement.preview.foresight import foresee
from placement.preview.intent import intent
from placement.state import NETWORK, Gauge, Room
from tests.placement.brain_lab import (
    ATTIC,
    ATTIC_RAM,
    ATTIC_SSD,
    DESK,
    MIB,
    RAM,
    SSD,
    VRAM,
    Lab,
    role,
    shard,
)

ROOMS = {"desk": DESK, "attic": ATTIC}


def lab_of(*specs):
    """A lab at rest that holds these items where they belong."""
    lab = Lab().join()
    lab.do(lab.register(*specs))
    return lab


def foreseen(lab, *desired, rooms=ROOMS):
    """What the lab would do to hold these items."""
    return foresee(lab.machine, desired, rooms, lab.now_s, {VRAM: 60 * MIB})


def told(foresight):
    """The commands in their order, as short text."""
    return [
        f"{step.command.item}: {step.command.source} -> {step.command.target}"
        if isinstance(step.command, Copy)
        else f"{step.command.item}: drop {step.command.place}"
        for step in foresight.steps
    ]


def done(lab, *desired, rooms=ROOMS):
    """What the lab does when it is really told these items, each command answered at once."""
    given = []
    for event in list(intent(lab.state, desired, rooms)):
        commands = lab.tell(event)
        given += [*commands, *lab.do(commands)]
    return [
        f"{one.item}: {one.source} -> {one.target}"
        if isinstance(one, Copy)
        else f"{one.item}: drop {one.place}"
        for one in given
        if isinstance(one, Copy | Drop)
    ]


def test_a_lab_that_is_as_its_file_says_has_nothing_to_do():
    """Nothing is copied and nothing dropped for a file that changed nothing."""
    coder, plato = role("coder", RAM), shard("plato")
    assert told(foreseen(lab_of(coder, plato), coder, plato)) == []


CHANGES = {
    "a new role comes home": ((), (role("coder", RAM),)),
    "a role that leaves is dropped everywhere": ((role("coder", RAM),), ()),
    "a role goes to another tier": ((role("coder", RAM),), (role("coder", SSD),)),
    "a role goes to another machine": ((role("coder", RAM),), (role("coder", ATTIC_RAM),)),
    "a new version takes over": (
        (role("coder", RAM),),
        (replace(role("coder", RAM), item="coder@2"),),
    ),
    "a shard goes to the disk": ((shard("plato"),), (shard("plato", SSD),)),
    "a role that is pinned comes up": ((role("coder", RAM),), (role("coder", VRAM, pinned=True),)),
}


@pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=CHANGES)
def test_what_is_foreseen_is_what_the_machine_then_does(before, after):
    """Told the same, a live Machine gives the very commands of the plan, and the plan left it alone."""
    lab = lab_of(*before)
    state = lab.state
    plan = told(foreseen(lab, *after))
    assert plan
    assert lab.state is state
    assert plan == done(lab, *after)


def test_a_move_to_another_machine_shows_both_legs_and_what_leaves():
    """The SSD copy there comes first, then the ordered place, then what was left behind goes."""
    lab = lab_of(role("coder", RAM))
    assert told(foreseen(lab, role("coder", ATTIC_RAM))) == [
        "coder@1: desk:RAM -> attic:SSD",
        "coder@1: attic:SSD -> attic:RAM",
        "coder@1: drop desk:RAM",
        "coder@1: drop desk:SSD",
    ]


def test_an_item_at_an_address_is_shown_to_land_first():
    """The bytes of an address land on the SSD, and go on from there."""
    spec = role("far", RAM, durable=NETWORK, landing=SSD)
    assert told(foreseen(Lab().join(), spec)) == ["far@1: network -> desk:SSD", "far@1: desk:SSD -> desk:RAM"]


def test_each_copy_has_its_bytes_its_beginning_and_its_seconds():
    """A second leg begins when the first is likely to have ended, and the whole takes as long as both."""
    lab = lab_of(role("coder", RAM))
    plan = foreseen(lab, role("coder", ATTIC_RAM))
    first, second = plan.steps[0], plan.steps[1]
    assert first.command.nbytes == 10 * MIB
    assert first.begins_s == 0
    assert 0 < first.took_s <= second.begins_s
    assert plan.took_s == pytest.approx(second.begins_s + second.took_s)


def test_requests_in_flight_do_not_keep_an_item_from_leaving_the_plan():
    """The pretended world is calm: whoever holds a lease now lets go, so the drop is foreseen."""
    coder = role("coder", VRAM)
    lab = lab_of(coder)
    lab.now_s = 1.0
    lab.tell(Beat("desk", 1.0, {VRAM: {coder.item: Seen(leases=2)}}))
    assert "coder@1: drop desk:VRAM(cpu)" in told(foreseen(lab))


def test_a_lab_that_does_not_run_is_foreseen_from_nothing():
    """Told its machines and its items, a new Machine shows all that `up` would do."""
    plan = foreseen(Lab(), role("coder", RAM), role("artist", VRAM), shard("plato", SSD))
    assert told(plan) == ["coder@1: desk:SSD -> desk:RAM", "artist@1: desk:SSD -> desk:VRAM(cpu)"]
    assert [fill.place for fill in plan.before] == []
    assert {fill.place for fill in plan.after} == {*DESK, *ATTIC}


def test_the_room_of_each_place_adds_up():
    """Base weights, KV cache, adapters in slots, other items and what is free, in MiB, make the budget."""
    plan = foreseen(Lab(), role("artist", VRAM), shard("plato", RAM))
    parts = {
        fill.place: tuple(
            nbytes / MIB for nbytes in (fill.budget, fill.base, fill.kv, fill.slots, fill.items, fill.free)
        )
        for fill in plan.after
    }
    assert parts == {
        VRAM: (200, 40, 60, 10, 0, 90),
        RAM: (100, 0, 0, 0, 5, 95),
        SSD: (1000, 0, 0, 0, 10, 990),
        ATTIC_RAM: (50, 0, 0, 0, 0, 50),
        ATTIC_SSD: (1000, 0, 0, 0, 0, 1000),
    }
    seats = {fill.place: fill.seats for fill in plan.after}
    assert seats[VRAM] == (("small", 1, 2), ("big", 0, 1))


def test_an_order_that_can_never_be_met_is_told_with_its_error():
    """A home in a place that nobody offers is refused as the Machine refuses it; the rest is planned."""
    coder, artist = role("coder", RAM), role("artist", RAM)
    lab = lab_of(coder, artist)
    plan = foreseen(lab, replace(coder, home=ATTIC_SSD), artist, rooms={"desk": DESK, "attic": {}})
    assert [error.code for error in plan.refused] == ["TRC021"]


def test_what_does_not_fit_is_summed_up_biggest_first_with_the_smallest_repair():
    """A RAM of 100 MiB for 110: the one role whose move suffices is named first, then the budget."""
    small, large = role("small", RAM, nbytes=30 * MIB), role("large", RAM, nbytes=80 * MIB)
    (misfit,) = foreseen(Lab(), large, small).misfits
    assert [(share.name, share.nbytes) for share in misfit.shares] == [
        ("large", 80 * MIB),
        ("small", 30 * MIB),
    ]
    assert misfit.outside == ("small",)
    assert misfit.repairs == ("small: home desk:SSD", "nodes.desk.ram: 110MiB")
    assert str(misfit) == (
        "desk:RAM has a budget of 100.0 MiB: large 80.0 MiB + small 30.0 MiB = 110.0 MiB, 10.0 MiB too much; "
        "without room: small"
    )


def test_repairs_are_searched_only_to_advise_somebody():
    """Who applies a plan needs its steps and what is refused, and tries no repairs."""
    small, large = role("small", RAM, nbytes=30 * MIB), role("large", RAM, nbytes=80 * MIB)
    lab = Lab()
    plan = foresee(lab.machine, (large, small), ROOMS, lab.now_s, {}, advise=False)
    assert told(plan) == ["large@1: desk:SSD -> desk:RAM"]
    assert plan.misfits == ()


def test_a_repair_that_is_told_makes_it_fit():
    """With the first repair taken the same plan has no misfit; so it has with the second."""
    small, large = role("small", RAM, nbytes=30 * MIB), role("large", RAM, nbytes=80 * MIB)
    assert foreseen(Lab(), large, replace(small, home=SSD)).misfits == ()
    more = {**ROOMS, "desk": {**DESK, RAM: Room(110 * MIB)}}
    assert foreseen(Lab(), large, small, rooms=more).misfits == ()


def test_more_roles_than_seats_are_told_with_the_slots_that_would_do():
    """Three roles at home in an engine of two slots: one goes below, or the base gets a third slot."""
    roles = [role(name, VRAM) for name in ("a", "b", "c")]
    (misfit,) = foreseen(Lab(), *roles).misfits
    assert (misfit.seats, misfit.seats_of, misfit.outside) == (2, "small", ("c",))
    assert misfit.repairs == ("a: home desk:RAM", "bases.small.slots: 3")


def test_a_budget_is_no_repair_where_the_memory_itself_is_full():
    """Measured memory that others fill is not made larger by a larger budget."""
    coder = role("coder", RAM)
    lab = Lab().join()
    lab.now_s = 1.0
    full = {RAM: (Gauge(100 * MIB, 95 * MIB, "psutil"),)}
    lab.tell(Beat("desk", 1.0, {RAM: {}}, full))
    (misfit,) = foreseen(lab, coder).misfits
    assert misfit.repairs == ("coder: home desk:SSD",)


def test_a_move_that_is_refused_for_want_of_room_is_told_with_its_repair():
    """A home where nothing can make room is refused; the sum has all who belong there, and what would do."""
    large, small = role("large", RAM, nbytes=80 * MIB), role("small", SSD, nbytes=30 * MIB)
    lab = lab_of(large, small)
    plan = foreseen(lab, large, replace(small, home=RAM))
    assert [error.code for error in plan.refused] == ["TRC022"]
    (misfit,) = plan.misfits
    assert [share.name for share in misfit.shares] == ["large", "small"]
    assert misfit.outside == ("small",)
    assert misfit.repairs == ("small: home desk:SSD", "nodes.desk.ram: 110MiB")


def test_a_repair_does_not_crowd_another_place_more():
    """A role that has no seat is not sent to a RAM that is too full already, but to the disk below."""
    roles = [role(name, VRAM) for name in ("a", "b", "c")]
    full = [role(name, RAM, nbytes=95 * MIB) for name in ("x", "y")]
    ram, vram = sorted(foreseen(Lab(), *roles, *full).misfits, key=lambda misfit: misfit.seats)
    assert ram.repairs[0] == "x: home desk:SSD"
    assert vram.repairs[0] == "a: home desk:SSD"


def test_two_that_are_too_many_are_moved_together():
    """Where no single move is enough, the largest go first and all of them are named."""
    roles = [role(name, RAM, nbytes=60 * MIB) for name in ("a", "b", "c")]
    (misfit,) = foreseen(Lab(), *roles).misfits
    assert misfit.repairs == ("c: home desk:SSD, b: home desk:SSD", "nodes.desk.ram: 180MiB")
