import pytest

from placement.messages import (
    Copied,
    Copy,
    CopyFailed,
    Drop,
    DropRefused,
    Grant,
    MoveOrdered,
    NodeJoined,
    NodeLost,
    PinSet,
    Refuse,
    Registered,
    Removed,
    Seen,
    Wanted,
)
from placement.plan import is_safe, no_room, objections, occupants
from placement.state import Item, Limits, Place, Room
from placement.tiers import Tier
from tests.placement.brain_lab import (
    ATTIC_RAM,
    ATTIC_SSD,
    DESK,
    LOG,
    MIB,
    RAM,
    SSD,
    VRAM,
    Lab,
    plan,
    role,
    shard,
)

A, B, C = role("a"), role("b"), role("c")


def passive(**kwargs):
    """Return a joined lab without policies, so that only the test's own commands happen."""
    return Lab(policies=(), **kwargs).join()


def copy(spec, source, target, **changes):
    """Return a suggestion to copy."""
    return Copy("", spec.item, source, target, changes.get("nbytes", spec.nbytes), "test")


def drop(spec, place):
    """Return a suggestion to drop."""
    return Drop("", spec.item, place, "test")


def why_not(lab, command):
    """Return all objections to a command."""
    return list(objections(lab.state, command, lab.now_s, lab.limits))


def adopt(lab, spec, *places, seen=None):
    """Let a beat show the item at each place."""
    lab.now_s += 1
    for place in places:
        lab.see(place, spec, seen=seen)


def start(lab, command):
    """Give a command as a policy would; return it with its op."""
    planned = plan(lab.state, [command], lab.now_s, lab.limits)
    lab.machine.state = planned.state
    return planned.commands[0]


def test_a_copy_from_the_durable_file_to_a_free_seat_is_safe():
    """The plain case is admitted: everything refused below differs from it in one thing."""
    lab = passive()
    lab.register(A)
    assert why_not(lab, copy(A, SSD, VRAM)) == []


def test_an_unknown_item_is_not_copied():
    """An item that nobody registered has no bytes to reserve."""
    assert "is not registered" in why_not(passive(), copy(A, SSD, VRAM))[0]


def test_a_removed_item_is_not_copied():
    """An item on its way out is brought nowhere."""
    lab = passive()
    lab.register(A)
    lab.tell(Removed(A.item))
    assert "is not registered" in why_not(lab, copy(A, SSD, RAM))[0]


def test_a_copy_must_carry_the_items_bytes():
    """A suggestion that lies about its size is refused, because the size is what is reserved."""
    lab = passive()
    lab.register(A)
    assert why_not(lab, copy(A, SSD, VRAM, nbytes=1)) == [f"{A.item} has {A.nbytes} bytes, not 1"]


def test_vram_is_never_a_source():
    """Slot bytes are not the image, so a VRAM replica cannot be copied from."""
    lab = passive()
    lab.register(A)
    adopt(lab, A, VRAM)
    assert why_not(lab, copy(A, VRAM, RAM)) == [f"{VRAM} cannot be read: slot bytes are not the image"]


def test_a_copy_needs_a_source_that_holds_the_item():
    """A place where the item is not, or not yet, cannot be read."""
    lab = passive()
    lab.register(A)
    assert why_not(lab, copy(A, ATTIC_SSD, RAM)) == [f"nothing to read at {ATTIC_SSD}"]
    start(lab, copy(A, SSD, ATTIC_RAM))
    assert why_not(lab, copy(A, ATTIC_RAM, RAM)) == [f"nothing to read at {ATTIC_RAM}"]


def test_a_copy_needs_a_source_on_a_living_node():
    """A durable file on a lost node is remembered and cannot be read."""
    lab = passive()
    spec = role("a", durable=ATTIC_SSD)
    lab.register(spec)
    lab.tell(NodeLost("attic", "gone"))
    assert why_not(lab, copy(spec, ATTIC_SSD, RAM)) == [f"nothing to read at {ATTIC_SSD}"]


def test_an_item_that_is_there_or_coming_is_not_copied_again():
    """One item at one place has one op."""
    lab = passive()
    lab.register(A)
    start(lab, copy(A, SSD, RAM))
    assert why_not(lab, copy(A, SSD, RAM)) == [f"{A.item} is loading at {RAM} already"]


def test_an_adapter_goes_to_no_other_engine():
    """VRAM means the engine of the item's base."""
    other = Place("desk", Tier.VRAM, "cuda:1")
    lab = Lab(policies=()).join(desk={**DESK, other: Room(100 * MIB, 0, {"small": 2})})
    lab.register(A)
    assert why_not(lab, copy(A, SSD, other)) == [f"{A.item} is served at {VRAM}, not at {other}"]


def test_a_shard_does_not_leave_its_log():
    """The index of a shard stays on the node where its log is."""
    lab = passive()
    lab.register(shard("s"))
    assert why_not(lab, copy(shard("s"), LOG, ATTIC_RAM)) == ["s#shard stays with its log on desk"]


def test_nothing_is_tried_again_before_the_pause_is_over():
    """After a failure the same item and place wait."""
    lab = passive()
    lab.register(A)
    begun = start(lab, copy(A, SSD, RAM))
    lab.tell(CopyFailed(begun.op, "STO002", "bad digest"))
    assert why_not(lab, copy(A, SSD, RAM)) == ["the last try failed: bad digest [STO002]"]
    lab.now_s += lab.limits.backoff_s
    assert why_not(lab, copy(A, SSD, RAM)) == []


def test_a_place_that_nobody_offers_takes_nothing():
    """A Room comes with a node that joined."""
    lab = passive()
    lab.register(A)
    nowhere = Place("cellar", Tier.RAM)
    assert why_not(lab, copy(A, SSD, nowhere)) == [f"{nowhere} is not offered by any node"]


def test_a_lost_node_takes_nothing():
    """Nothing is sent to a node that is lost, and its places are unknown until it reports."""
    lab = passive()
    lab.register(A)
    lab.tell(NodeLost("attic", "no beat"))
    assert "attic is lost (no beat)" in why_not(lab, copy(A, SSD, ATTIC_RAM))


def test_a_place_takes_nothing_before_it_has_reported():
    """A place may hold what we do not know yet; only after its first beat is its room known."""
    lab = Lab(policies=())
    lab.tell(NodeJoined("desk", DESK))
    lab.register(A)
    assert why_not(lab, copy(A, SSD, RAM)) == [f"{RAM} has not reported yet what it holds"]


def test_bytes_in_flight_count_against_the_budget():
    """A copy that is not done has its bytes already; the refusal names them all."""
    lab = passive()
    big, other = role("big", nbytes=60 * MIB), role("other", nbytes=50 * MIB)
    lab.register(big, other)
    start(lab, copy(big, SSD, RAM))
    (why,) = why_not(lab, copy(other, SSD, RAM))
    assert "40.0 MiB of 100.0 MiB free, and 50.0 MiB are needed: big (loading)" in why


def test_what_fits_exactly_fits():
    """A budget may be filled to its last byte."""
    lab = passive()
    big, other = role("big", nbytes=60 * MIB), role("other", nbytes=40 * MIB)
    lab.register(big, other)
    start(lab, copy(big, SSD, RAM))
    assert is_safe(lab.state, copy(other, SSD, RAM), lab.now_s, lab.limits)


def test_fixed_bytes_are_no_room():
    """Base weights and KV cache are taken from the budget before any adapter."""
    lab = passive()
    spec = role("big", nbytes=101 * MIB)
    lab.register(spec)
    assert "100.0 MiB of 100.0 MiB free" in why_not(lab, copy(spec, SSD, VRAM))[0]


def test_a_replica_that_is_leaving_still_takes_its_seat():
    """A seat is free only when the Drop is answered."""
    lab = passive()
    lab.register(A, B, C)
    adopt(lab, A, VRAM)
    lab.see(Place("desk", Tier.RAM))
    start(lab, copy(B, SSD, VRAM))
    start(lab, drop(A, VRAM))
    (why,) = why_not(lab, copy(C, SSD, VRAM))
    assert why == f"{VRAM} has 2 seats for base small, and 2 are taken: a (leaving), b (loading)"


def test_seats_are_counted_per_base():
    """A base with a free seat is not kept out by another base's full seats."""
    lab = passive()
    big = role("big", base="big")
    lab.register(A, B, big)
    start(lab, copy(A, SSD, VRAM))
    start(lab, copy(B, SSD, VRAM))
    assert why_not(lab, copy(big, SSD, VRAM)) == []


def test_an_engine_without_the_base_has_no_seat():
    """A base that the place does not serve has zero seats there."""
    lab = passive()
    spec = role("odd", base="huge")
    lab.register(spec)
    assert "0 seats for base huge" in why_not(lab, copy(spec, SSD, VRAM))[0]


def test_copies_into_one_place_are_bounded():
    """No more than `copies_per_place` loads run into one place at a time."""
    lab = passive(limits=Limits(copies_per_place=2))
    lab.register(A, B, C)
    start(lab, copy(A, SSD, RAM))
    start(lab, copy(B, SSD, RAM))
    assert why_not(lab, copy(C, SSD, RAM)) == [f"2 copies into {RAM} are in flight, and 2 may be"]


def test_a_cache_with_a_durable_copy_may_go():
    """The plain case of a Drop is admitted."""
    lab = passive()
    lab.register(A)
    adopt(lab, A, VRAM, RAM)
    assert why_not(lab, drop(A, VRAM)) == why_not(lab, drop(A, RAM)) == []


def test_the_durable_copy_never_goes():
    """Not even while other replicas are ready."""
    lab = passive()
    lab.register(A)
    adopt(lab, A, RAM)
    assert why_not(lab, drop(A, SSD)) == ["the durable copy"]


def test_the_durable_copy_of_a_removed_item_goes():
    """Removing an adapter frees its file as well."""
    lab = passive()
    lab.register(A)
    lab.tell(Removed(A.item))
    assert why_not(lab, drop(A, SSD)) == []


def test_a_cache_stays_while_the_durable_copy_is_out_of_reach():
    """A replica may be the last that can be read: it waits for the durable copy's node."""
    lab = passive()
    spec = role("a", durable=ATTIC_SSD)
    lab.register(spec)
    adopt(lab, spec, RAM)
    lab.tell(NodeLost("attic", "gone"))
    assert why_not(lab, drop(spec, RAM)) == [f"its durable copy at {ATTIC_SSD} is out of reach"]


@pytest.mark.parametrize("place", [VRAM, SSD])
def test_what_is_not_there_is_not_dropped(place):
    """A Drop needs a replica that is ready, of an item that is known."""
    lab = passive()
    assert why_not(lab, drop(A, place)) == [f"{A.item} is not at {place}"]


def test_a_replica_that_is_still_loading_is_not_dropped():
    """Its copy has to end first."""
    lab = passive()
    lab.register(A)
    start(lab, copy(A, SSD, RAM))
    assert why_not(lab, drop(A, RAM)) == [f"{A.item} is loading at {RAM}"]


def test_a_leased_replica_stays():
    """What a request holds is not freed."""
    lab = passive()
    lab.register(A)
    adopt(lab, A, VRAM, seen=Seen(leases=2))
    assert why_not(lab, drop(A, VRAM)) == ["2 leases"]


def test_the_source_of_a_running_copy_stays():
    """What is being read is not freed, and may go when the copy has ended."""
    lab = passive()
    lab.register(A)
    adopt(lab, A, RAM)
    begun = start(lab, copy(A, RAM, VRAM))
    assert why_not(lab, drop(A, RAM)) == ["being copied from"]
    lab.tell(Copied(begun.op, A.nbytes, 0.1))
    assert why_not(lab, drop(A, RAM)) == []


def test_a_refused_drop_waits_before_it_is_tried_again():
    """A store that said "in use" is not asked again at once."""
    lab = passive()
    lab.register(A)
    adopt(lab, A, RAM)
    begun = start(lab, drop(A, RAM))
    lab.tell(DropRefused(begun.op, 0))
    assert why_not(lab, drop(A, RAM)) == ["refused to go a moment ago"]


def test_a_pinned_item_keeps_its_home_replica():
    """Other replicas of a pinned item may go."""
    lab = passive()
    spec = role("a", home=RAM)
    lab.register(spec)
    adopt(lab, spec, RAM, VRAM)
    lab.tell(PinSet(spec.item, True, "user"))
    assert why_not(lab, drop(spec, RAM)) == ["pinned"]
    assert why_not(lab, drop(spec, VRAM)) == []


def test_a_wanted_adapter_stays_where_it_serves():
    """An open want protects the replica that will answer it, and no other."""
    lab = passive()
    lab.register(A)
    adopt(lab, A, VRAM, RAM)
    lab.tell(Wanted("w", A.item, 99.0))
    assert why_not(lab, drop(A, VRAM)) == ["wanted"]
    assert why_not(lab, drop(A, RAM)) == []


def test_a_granted_adapter_stays_until_its_caller_is_there():
    """For `grace_s` after a Grant the replica cannot be evicted from under the caller."""
    lab = passive()
    lab.register(A)
    adopt(lab, A, VRAM)
    lab.tell(Wanted("w", A.item, 99.0))
    lab.machine.state = plan(lab.state, [Grant("w", A.item, VRAM)], lab.now_s, lab.limits).state
    assert why_not(lab, drop(A, VRAM)) == ["granted a moment ago"]
    lab.now_s += lab.limits.grace_s
    assert why_not(lab, drop(A, VRAM)) == []


def test_the_only_index_of_a_shard_stays():
    """A shard's log is no index: it cannot answer, so the last index is kept."""
    lab = passive()
    spec = shard("s")
    lab.register(spec)
    adopt(lab, spec, RAM)
    assert why_not(lab, drop(spec, RAM)) == ["the only index of the shard"]
    adopt(lab, spec, SSD)
    assert why_not(lab, drop(spec, RAM)) == []
    start(lab, drop(spec, RAM))
    assert why_not(lab, drop(spec, SSD)) == ["the only index of the shard"]


def test_nothing_is_dropped_on_a_lost_node():
    """Its replicas are unknown, and nobody is there to drop them."""
    lab = passive()
    lab.register(role("a", durable=ATTIC_SSD))
    lab.tell(Removed(A.item))
    lab.tell(NodeLost("attic", "gone"))
    assert why_not(lab, drop(A, ATTIC_SSD)) == ["attic is lost (gone)"]


def test_only_what_is_ready_is_granted_and_only_once():
    """A Grant needs an open want and a replica that serves; RAM serves no adapter."""
    lab = passive()
    lab.register(A)
    adopt(lab, A, RAM)
    lab.tell(Wanted("w", A.item, 99.0))
    assert why_not(lab, Grant("w", A.item, RAM)) == [f"{A.item} is not served at {RAM}"]
    adopt(lab, A, VRAM)
    twice = [Grant("w", A.item, VRAM), Grant("w", A.item, VRAM), Refuse("w", A.item, "X", "no")]
    assert plan(lab.state, twice, lab.now_s, lab.limits).commands == (twice[0],)


def test_a_want_is_not_ended_for_another_item():
    """Grant and Refuse name the item that was asked for."""
    lab = passive()
    lab.register(A, B)
    adopt(lab, B, VRAM)
    lab.tell(Wanted("w", A.item, 99.0))
    wrong = [Grant("w", B.item, VRAM), Refuse("w", B.item, "X", "no"), Refuse("v", A.item, "X", "no")]
    assert plan(lab.state, wrong, lab.now_s, lab.limits).commands == ()


def test_each_admission_counts_for_the_next():
    """Of three copies for two seats, two are admitted, with op ids in order."""
    lab = passive(epoch=7)
    lab.register(A, B, C)
    planned = plan(lab.state, [copy(spec, SSD, VRAM) for spec in (A, B, C)], lab.now_s, lab.limits)
    assert [command.op for command in planned.commands] == ["7.1", "7.2"]
    assert planned.state.used(VRAM) == 20 * MIB


def test_a_moved_item_may_leave_its_old_home():
    """After an order the old home is like any other cache."""
    lab = passive()
    spec = role("a", home=RAM, pinned=True)
    lab.tell(Registered(spec, (SSD, RAM)))
    lab.tell(MoveOrdered(spec.item, SSD, "user"))
    assert why_not(lab, drop(spec, RAM)) == []


def test_an_item_nobody_knows_takes_room():
    """Strangers are listed with their bytes, count as taken, and are named by who finds no room."""
    lab = passive()
    spec = role("big", nbytes=60 * MIB)
    lab.register(spec)
    lab.now_s = 1.0
    lab.see(RAM, role("stranger"), seen=Seen(nbytes=50 * MIB))
    assert lab.state.strangers == {RAM: {Item("stranger@1"): 50 * MIB}}
    assert lab.state.used(RAM) == 50 * MIB
    assert why_not(lab, copy(spec, SSD, RAM)) == [
        f"{RAM} has 50.0 MiB of 100.0 MiB free, and 60.0 MiB are needed: stranger@1 (not registered)"
    ]
    lab.now_s = 2.0
    lab.see(RAM)
    assert lab.state.strangers == {}
    assert why_not(lab, copy(spec, SSD, RAM)) == []


def test_a_stranger_that_is_registered_is_counted_once():
    """Files on SSD are seen before the lab says whose they are."""
    lab = passive()
    lab.now_s = 1.0
    lab.see(SSD, A, seen=Seen(nbytes=A.nbytes))
    assert lab.state.used(SSD) == A.nbytes
    lab.register(A)
    assert lab.state.used(SSD) == A.nbytes
    assert not lab.state.strangers.get(SSD)


def test_no_room_names_all_that_is_short():
    """Bytes and seats are told; what is there already, and a place that nobody offers, lacks nothing."""
    lab = passive()
    lab.register(A, B, role("big", nbytes=95 * MIB))
    lab.now_s = 1.0
    lab.see(VRAM, A, B)
    assert no_room(lab.state, role("big").item, VRAM) == (
        f"{VRAM} has 80.0 MiB of 100.0 MiB free, and 95.0 MiB are needed: a (idle), b (idle); "
        f"{VRAM} has 2 seats for base small, and 2 are taken: a (idle), b (idle)"
    )
    assert no_room(lab.state, A.item, VRAM) == ""
    assert no_room(lab.state, A.item, RAM) == ""
    assert no_room(lab.state, A.item, Place("cellar", Tier.RAM)) == ""


def test_a_sentence_about_a_place_stays_short():
    """Of many residents eight are named and the others counted."""
    lab = passive()
    lab.register(*(role(f"r{n}", nbytes=100 * MIB) for n in range(10)))
    assert occupants(lab.state, SSD).endswith("r7 (idle) and 2 more")
