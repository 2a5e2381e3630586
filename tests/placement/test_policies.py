from dataclasses import replace

import pytest

from placement.messages import (
    Beat,
    Copied,
    Copy,
    CopyFailed,
    Drop,
    Dropped,
    DropRefused,
    Grant,
    MoveOrdered,
    NodeJoined,
    NodeLost,
    PinSet,
    Refuse,
    Registered,
    Seen,
    Tick,
)
from placement.state import Limits, Place, Room
from placement.tiers import Tier
from tests.placement.brain_lab import (
    ATTIC_SSD,
    DESK,
    LOG,
    MIB,
    RAM,
    SSD,
    VRAM,
    Lab,
    role,
    shard,
)


def moves(commands):
    """Return what the commands do, without op ids and reasons."""
    told = []
    for command in commands:
        match command:
            case Copy(_, item, source, target):
                told.append((item, source, target))
            case Drop(_, item, place):
                told.append((item, place))
            case Grant(want) | Refuse(want):
                told.append((want, type(command).__name__))
    return told


def in_vram(*specs, **kwargs):
    """Return a lab in which these items are ready in VRAM, used in the order given, and `c` is cold."""
    lab = Lab(**kwargs).join()
    lab.do(lab.register(*specs, C))
    for spec in specs:
        lab.now_s += 10
        lab.do(lab.want(spec))
    lab.now_s += 100
    return lab


A, B, C = role("a"), role("b"), role("c")


def test_a_wanted_item_is_copied_once_and_granted_to_all():
    """Three wants for one cold item make one copy; when it is there, each is granted."""
    lab = Lab().join()
    lab.register(A)
    commands = [command for _ in range(3) for command in lab.want(A)]
    assert moves(commands) == [(A.item, SSD, VRAM)]
    assert commands[0].reason == "asked for by role a"
    assert moves(lab.tell(Copied(commands[0].op, A.nbytes, 0.1))) == [(f"w{n}", "Grant") for n in (1, 2, 3)]


def test_a_warm_item_is_granted_at_once():
    """No copy is made for what is ready where it serves."""
    lab = in_vram(A)
    assert moves(lab.want(A)) == [("w2", "Grant")]


def test_a_want_takes_the_seat_that_was_idle_longest():
    """Surplus items go least recently used first, and the copy waits for the drop."""
    lab = in_vram(A, B)
    (out,) = lab.want(C)
    assert moves([out]) == [(A.item, VRAM)]
    assert out.reason == "makes room for c: asked for by role c"
    assert moves(lab.tell(Dropped(out.op))) == [(C.item, SSD, VRAM)]


def test_surplus_goes_before_what_is_at_home():
    """An item that lives in VRAM keeps its seat while a guest has one, however idle."""
    lab = in_vram(role("lives", home=VRAM), B)
    assert moves(lab.want(C)) == [(B.item, VRAM)]


def test_what_is_at_home_goes_if_nobody_else_can():
    """A seat is a cache: its owner comes back when there is room again, and evicts nobody for it."""
    x, y = role("x", home=VRAM), role("y", home=VRAM)
    lab = in_vram(x, y)
    lab.do(lab.want(C))
    assert [lab.phase(spec, VRAM) for spec in (x, y, C)] == [None, "ready", "ready"]
    lab.tell(Tick())
    assert lab.phase(x, VRAM) is None
    lab.do(lab.wait(C.idle_s + 1))
    lab.do(lab.wait(5))
    assert [lab.phase(spec, VRAM) for spec in (x, y, C)] == ["ready", "ready", None]


def test_nobody_is_evicted_for_nothing():
    """If all that may go is not enough, nobody goes, and the refusal says who is in the way."""
    lab = in_vram(A, B, limits=Limits(foresees=False))
    lab.see(VRAM, A, B, seen=Seen(leases=1, hits=9))
    assert lab.want(C, within_s=5.0) == []
    lab.now_s += 5
    (refusal,) = lab.tell(Tick())
    assert refusal.code == "TRC012"
    assert refusal.reason == (
        f"c@1 was not ready at {VRAM} within 5s: {VRAM} has 2 seats for base small, and 2 are taken: "
        "a (1 lease), b (1 lease)"
    )


def test_two_wants_do_not_take_the_same_seat():
    """Each cold item evicts its own victim, and no third is evicted while those are leaving."""
    lab = in_vram(A, B)
    d = role("d")
    lab.register(d)
    first = lab.want(C)
    second = lab.want(d)
    assert moves(first + second) == [(A.item, VRAM), (B.item, VRAM)]
    assert lab.tell(Tick()) == []


def test_two_waiting_wants_get_a_victim_each_in_one_pass():
    """When a beat shows both seats free of leases, both are taken at once and no victim is named twice."""
    lab = in_vram(A, B)
    d = role("d")
    lab.register(d)
    lab.see(VRAM, A, B, seen=Seen(leases=1))
    assert lab.want(C) + lab.want(d) == []
    lab.now_s += 1
    assert moves(lab.see(VRAM, A, B, seen=Seen())) == [(A.item, VRAM), (B.item, VRAM)]


def test_several_small_items_make_room_for_a_large_one():
    """Bytes count as well as seats; a victim of another base frees bytes."""
    small, big = role("small", nbytes=30 * MIB), role("big", base="big", nbytes=95 * MIB)
    lab = in_vram(A, small)
    lab.register(big)
    assert sorted(moves(lab.want(big))) == [(A.item, VRAM), (small.item, VRAM)]


def test_a_want_for_an_item_that_is_leaving_copies_it_again():
    """The drop ends first; then the item is brought back."""
    lab = in_vram(A, B)
    (out,) = lab.want(C)
    assert lab.want(A) == []
    commands = lab.tell(Dropped(out.op))
    assert moves(commands) == [(C.item, SSD, VRAM), (B.item, VRAM)]
    assert moves(lab.tell(Dropped(commands[1].op))) == [(A.item, SSD, VRAM)]


def test_a_permanent_failure_refuses_all_wants_with_its_reason():
    """Waiting cannot help, so nobody waits, now and later."""
    lab = Lab().join()
    lab.register(A)
    (begun,) = lab.want(A)
    lab.want(A)
    refused = lab.tell(CopyFailed(begun.op, "ADP037", "no effect on the base", permanent=True))
    assert [(r.want, r.code, r.reason) for r in refused] == [
        (want, "ADP037", "no effect on the base") for want in ("w1", "w2")
    ]
    assert moves(lab.want(A)) == [("w3", "Refuse")]
    lab.tell(Registered(A, (SSD,)))
    assert moves(lab.want(A)) == [(A.item, SSD, VRAM)]


def test_a_passing_failure_is_tried_again_within_the_deadline():
    """The want waits for the pause, and for nothing else."""
    lab = Lab().join()
    lab.register(A)
    (begun,) = lab.want(A)
    assert lab.tell(CopyFailed(begun.op, "STO009", "bad luck")) == []
    lab.now_s += lab.limits.backoff_s
    assert moves(lab.tell(Tick())) == [(A.item, SSD, VRAM)]


def test_wants_of_a_lost_engine_are_refused_at_once():
    """The reason names the node and why it is lost."""
    lab = Lab().join()
    lab.register(A)
    lab.tell(NodeLost("desk", "no beat for 12.0 s"))
    (refusal,) = lab.want(A)
    assert (refusal.code, refusal.reason) == (
        "TRC013",
        "desk, where a@1 is served, is lost (no beat for 12.0 s)",
    )


@pytest.mark.parametrize("count", [2, 20])
def test_all_who_are_wanted_on_a_node_that_fell_silent_are_refused_on_one_tick(count):
    """Not only who is first in line: there is nothing to wait for."""
    lab, specs = Lab().join(), [role(f"r{number}") for number in range(count)]
    lab.register(*specs)
    for spec in specs:
        lab.want(spec)
    while lab.state.alive("desk"):
        lab.now_s += 4.0
        commands = lab.tell(Tick())
    refused = {command.want: command.code for command in commands if isinstance(command, Refuse)}
    assert refused == {f"w{number + 1}": "TRC013" for number in range(count)}
    assert lab.state.wants == {}


def test_wants_without_any_readable_copy_are_refused_at_once():
    """The durable copy is on a lost node, or its file is missing: the reason tells which."""
    far = role("far", durable=ATTIC_SSD)
    lab = Lab().join()
    lab.register(A, far)
    lab.tell(NodeLost("attic", "gone"))
    assert lab.want(far)[0].code == "TRC013"
    lab.now_s = 1.0
    lab.see(SSD)
    assert lab.want(A)[0].code == "TRC014"


def test_each_item_goes_home():
    """A registered item is copied to where the file wants it, if it fits."""
    lab = Lab().join()
    commands = lab.register(role("r", home=RAM), role("v", home=VRAM), A, shard("s"))
    assert moves(commands) == [("r@1", SSD, RAM), ("v@1", SSD, VRAM), ("s#shard", LOG, RAM)]


def test_a_missing_file_is_written_again_from_another_copy():
    """The durable copy is restored from RAM as soon as a beat shows that it is gone."""
    spec = role("r", home=RAM)
    lab = Lab().join()
    lab.do(lab.register(spec))
    lab.now_s = 1.0
    assert moves(lab.see(SSD)) == [(spec.item, RAM, SSD)]


def test_an_idle_guest_leaves_vram():
    """After `idle_s` without a hit or a lease, and not before; a hit renews."""
    spec = role("a", idle_s=100.0)
    lab = in_vram(spec)
    lab.see(VRAM, spec, seen=Seen(hits=1))
    lab.now_s += 99
    assert lab.tell(Tick()) == []
    lab.see(VRAM, spec, seen=Seen(hits=2, idle_s=50.0))
    lab.now_s += 49
    assert lab.tell(Tick()) == []
    lab.now_s += 1
    (out,) = lab.tell(Tick())
    assert (out.place, out.reason) == (VRAM, f"idle for 100 s; it rests at {SSD}")


def test_an_idle_item_unloads_to_where_the_file_says_and_returns_when_used():
    """First the copy below, later the drop; used again, its home is VRAM as before, for twice as long."""
    spec = role("a", home=VRAM, idle_s=100.0, unload_to=RAM)
    lab = Lab().join()
    lab.do(lab.register(spec))
    (down,) = lab.wait(100)
    assert moves([down]) == [(spec.item, SSD, RAM)]
    (out,) = lab.tell(Copied(down.op, spec.nbytes, 0.1))
    assert moves([out]) == [(spec.item, VRAM)]
    lab.do([out])
    assert lab.wait(50) == []
    up = lab.want(spec)
    assert moves(up) == [(spec.item, RAM, VRAM)]
    lab.do(up)
    assert moves(lab.wait(60)) == []
    assert moves(lab.wait(100)) == [(spec.item, RAM)]


@pytest.mark.parametrize("to", [Place("desk", Tier.NETWORK), Place("cellar", Tier.RAM)], ids=str)
def test_an_item_that_would_unload_to_nowhere_goes_home(to):
    """A place that nobody offers is no place to rest, so an idle guest leaves VRAM all the same."""
    spec = role("a", home=RAM, idle_s=100.0, unload_to=to)
    lab = Lab().join()
    lab.do(lab.register(spec))
    lab.do(lab.want(spec))
    assert moves(lab.wait(101)) == [(spec.item, VRAM)]


def test_a_pinned_item_is_not_unloaded():
    """A pin holds an item at its home, idle or not."""
    spec = role("a", home=VRAM, idle_s=100.0, unload_to=RAM, pinned=True)
    lab = Lab().join()
    lab.do(lab.register(spec))
    assert lab.wait(300) == []


def test_a_pinned_item_takes_its_seat_from_others():
    """Whoever is not pinned makes room for a pinned item that lives there."""
    lab = in_vram(A, B)
    spec = role("p", home=VRAM)
    lab.register(spec)
    (out,) = lab.tell(PinSet(spec.item, True, "user"))
    assert moves([out]) == [(A.item, VRAM)]
    lab.do([out])
    assert lab.phase(spec, VRAM) == "ready"


def test_a_pinned_item_takes_its_room_in_ram_from_who_merely_lives_there():
    """A pin beats a home; who had to go does not fight for the place and is served from below."""
    lives, pinned = role("lives", home=RAM, nbytes=60 * MIB), role("p", home=RAM, nbytes=60 * MIB)
    lab = Lab().join()
    lab.do(lab.register(lives, pinned))
    assert (lab.phase(lives, RAM), lab.phase(pinned, RAM)) == ("ready", None)
    lab.do(lab.tell(PinSet(pinned.item, True, "user")))
    lab.do(lab.tell(Tick()))
    assert (lab.phase(lives, RAM), lab.phase(pinned, RAM)) == (None, "ready")


def test_room_that_a_stranger_takes_is_made_elsewhere():
    """What nobody registered cannot be evicted, so whoever lives there goes for the pinned item."""
    lives, pinned = role("lives", home=RAM, nbytes=30 * MIB), role("p", home=RAM, nbytes=60 * MIB)
    lab = Lab().join()
    lab.do(lab.register(lives))
    lab.now_s = 1.0
    lab.tell(Beat("desk", 1.0, {RAM: {lives.item: Seen(), role("old").item: Seen(nbytes=30 * MIB)}}))
    assert lab.register(pinned) == []
    assert moves(lab.tell(PinSet(pinned.item, True, "user"))) == [(lives.item, RAM)]


def test_a_move_copies_first_and_drops_on_a_later_pass():
    """The old home is freed only when the new one is ready, and the durable copy never."""
    spec = role("a", home=VRAM)
    lab = Lab().join()
    lab.do(lab.register(spec))
    lab.now_s += 10
    (begun,) = lab.tell(MoveOrdered(spec.item, RAM, "user"))
    assert (begun.source, begun.target, begun.reason) == (SSD, RAM, "moved by user")
    (out,) = lab.tell(Copied(begun.op, spec.nbytes, 0.1))
    assert (out.place, out.reason) == (VRAM, f"moved to {RAM}")
    assert not lab.state.moves
    lab.do([out])
    assert lab.state.spots[spec.item] == (RAM, SSD)
    assert not lab.state.leaves


def test_a_move_sends_the_old_replica_away_though_requests_still_run_on_it():
    """The place drains it: a role that is asked all the time would otherwise never arrive."""
    spec = role("a", home=VRAM)
    lab = Lab().join()
    lab.do(lab.register(spec))
    lab.now_s += 10
    lab.see(VRAM, spec, seen=Seen(leases=1))
    (begun,) = lab.tell(MoveOrdered(spec.item, RAM, "user"))
    assert moves(lab.tell(Copied(begun.op, spec.nbytes, 0.1))) == [(spec.item, VRAM)]


def test_a_move_tries_again_when_the_old_replica_did_not_drain():
    """A refused drop leaves the item served at both places until the next try."""
    spec = role("a", home=VRAM)
    lab = Lab().join()
    lab.do(lab.register(spec))
    lab.now_s += 10
    (begun,) = lab.tell(MoveOrdered(spec.item, RAM, "user"))
    (out,) = lab.tell(Copied(begun.op, spec.nbytes, 0.1))
    assert lab.tell(DropRefused(out.op, 2)) == []
    assert lab.phase(spec, VRAM) == "ready"
    assert moves(lab.wait(60)) == [(spec.item, VRAM)]


def test_a_slot_that_was_lost_is_taken_again_at_once_whatever_was_refused_before():
    """The pause after refused drops ends when a beat shows that the replica is gone."""
    lab = Lab().join()
    lab.do(lab.register(role("a", home=VRAM)))
    lab.now_s += 10
    (begun,) = lab.tell(MoveOrdered(A.item, RAM, "user"))
    commands = lab.tell(Copied(begun.op, A.nbytes, 0.1))
    for _ in range(7):
        (out,) = commands or lab.wait(60)
        commands = lab.tell(DropRefused(out.op, 1))
    lab.now_s += 1
    assert lab.state.blocked(A.item, VRAM, lab.now_s).code == "TRC011"
    lab.see(VRAM)
    assert moves(lab.want(A)) == [(A.item, RAM, VRAM)]


def test_an_order_that_clears_nothing_leaves_the_old_replica():
    """What was settled before a restart sends nobody away again."""
    spec = role("a", home=VRAM)
    lab = Lab().join()
    lab.do(lab.register(spec))
    lab.now_s += 10
    lab.do(lab.tell(MoveOrdered(spec.item, RAM, "user", clears=False)))
    assert lab.state.spots[spec.item] == (RAM, SSD, VRAM)


def test_moving_to_where_it_is_already_does_nothing():
    """No commands, no open move."""
    spec = role("a", home=RAM)
    lab = Lab().join()
    lab.do(lab.register(spec))
    assert lab.tell(MoveOrdered(spec.item, RAM, "user")) == []
    assert not lab.state.moves


def test_a_move_to_vram_makes_room_like_a_want():
    """An order may take a seat from whoever is not pinned."""
    lab = in_vram(A, B)
    assert moves(lab.tell(MoveOrdered(C.item, VRAM, "user"))) == [(A.item, VRAM)]


def test_a_want_keeps_the_engine_replica_of_an_item_that_is_moved_away():
    """The move goes on, and the request is served where the item still is."""
    spec = role("a", home=VRAM)
    lab = Lab().join()
    lab.do(lab.register(spec))
    lab.now_s += 10
    (begun,) = lab.tell(MoveOrdered(spec.item, RAM, "user"))
    assert moves(lab.want(spec)) == [("w1", "Grant")]
    lab.now_s += lab.limits.hold_s
    assert lab.tell(Copied(begun.op, spec.nbytes, 0.1)) == []
    assert lab.phase(spec, VRAM) == "ready"


def test_a_shard_moves_between_ram_and_ssd_with_one_index_in_the_end():
    """The index is copied, then the old one is dropped; the log stays."""
    spec = shard("s")
    lab = Lab().join()
    lab.do(lab.register(spec))
    commands = lab.tell(MoveOrdered(spec.item, SSD, "user"))
    assert moves(commands) == [(spec.item, RAM, SSD)]
    lab.do(commands)
    assert lab.state.spots[spec.item] == (SSD, LOG)


def test_a_want_for_a_shard_is_granted_where_its_index_is():
    """A shard answers from RAM and from SSD alike."""
    spec = shard("s", home=SSD)
    lab = Lab().join()
    lab.do(lab.register(spec))
    assert moves(lab.want(spec)) == [("w1", "Grant")]


def test_things_return_home_when_a_node_returns():
    """After a loss the node's first beat shows what is left, and the rest is copied again."""
    spec = role("r", home=RAM)
    lab = Lab().join()
    lab.do(lab.register(spec))
    lab.tell(NodeLost("desk", "gone"))
    lab.now_s = 5.0
    lab.tell(NodeJoined("desk", DESK))
    lab.see(SSD, spec)
    assert lab.tell(Tick()) == []
    lab.now_s = 6.0
    assert moves(lab.see(RAM)) == [(spec.item, SSD, RAM)]


def test_an_overfull_place_gives_up_surplus_without_waiting():
    """If a room shrinks, guests go at once, idle or not."""
    lab = in_vram(A, B, limits=Limits(hold_s=0.0))
    rooms = {**DESK, VRAM: Room(115 * MIB, 100 * MIB, {"small": 2, "big": 1})}
    assert {item for item, _ in moves(lab.tell(NodeJoined("desk", rooms)))} == {A.item, B.item}


@pytest.mark.parametrize("why", ["wanted", "pinned", "moved"])
def test_room_that_is_being_made_for_somebody_is_not_taken_by_homecomers(why):
    """While the second victim is leaving, an item that lives there and would fit already has to wait."""
    small, big = role("small", nbytes=30 * MIB), role("big", base="big", nbytes=95 * MIB)
    lab = in_vram(A, small, limits=Limits(foresees=False))
    lab.register(role("lives", home=VRAM), replace(big, home=VRAM) if why == "pinned" else big)
    match why:
        case "wanted":
            first, second = lab.want(big)
        case "pinned":
            first, second = lab.tell(PinSet(big.item, True, "user"))
        case "moved":
            first, second = lab.tell(MoveOrdered(big.item, VRAM, "user"))
    assert lab.tell(Dropped(first.op)) == []
    assert lab.tell(Tick()) == []
    assert moves(lab.tell(Dropped(second.op)))[0] == (big.item, SSD, VRAM)


def test_a_base_that_lost_its_seats_evicts_nobody_and_can_be_evicted():
    """Wants of the base wait, and what is left of it makes room for others without an error."""
    lab = in_vram(A, limits=Limits(hold_s=0.0))
    big = role("big", base="big", nbytes=95 * MIB)
    lab.register(big)
    lab.tell(NodeJoined("desk", {**DESK, VRAM: Room(200 * MIB, 100 * MIB, {"big": 1})}))
    assert lab.want(C) == []
    assert moves(lab.want(big)) == [(A.item, VRAM)]
