"""Adapters that lie at an address: fetched to an SSD, brought up from there, and let go when idle."""

import pytest

from placement.errors import UserError
from placement.messages import (
    Beat,
    Copied,
    Copy,
    CopyFailed,
    Drop,
    MoveOrdered,
    NodeJoined,
    NodeLost,
    Refuse,
    Registered,
    Removed,
    Seen,
)
from placement.plan import objections
from placement.rows import rows
from placement.state import NETWORK, Place, Room
from placement.tiers import Tier
from tests.placement.brain_lab import (
    ATTIC_RAM,
    ATTIC_SSD,
    DESK,
    LIMITS,
    MIB,
    RAM,
    SSD,
    VRAM,
    Lab,
    remote,
    role,
    shard,
)


def targets(commands):
    """Return where the copies go, in order."""
    return [(command.source, command.target) for command in commands if isinstance(command, Copy)]


def test_a_want_fetches_to_the_landing_and_goes_on_from_there():
    """The bytes of an address lie on an SSD before they are anywhere else."""
    lab, spec = Lab().join(), remote("far")
    assert lab.register(spec) == []
    first = lab.want(spec)
    assert targets(first) == [(NETWORK, SSD)]
    then = lab.tell(Copied(first[0].op, spec.nbytes, 1.0))
    assert targets(then) == [(SSD, VRAM)]
    granted = lab.tell(Copied(then[0].op, spec.nbytes, 0.1))
    assert [command.place for command in granted] == [VRAM]


def test_an_idle_item_at_an_address_leaves_nothing_behind():
    """When its home is the network, an idle item frees its slot and its file."""
    lab, spec = Lab().join(), remote("far", idle_s=100.0)
    lab.register(spec)
    lab.do(lab.want(spec))
    drops = lab.wait(150)
    assert [drop.place for drop in drops] == [SSD, VRAM]
    lab.do(drops)
    assert [place for place, _ in lab.state.at(spec.item)] == [NETWORK]


def test_a_fetched_file_stays_while_its_slot_is_used():
    """The file is idle when the item is, however long ago it arrived."""
    lab, spec = Lab().join(), remote("far", idle_s=100.0)
    lab.register(spec)
    lab.do(lab.want(spec))
    lab.wait(90)
    lab.want(spec)
    assert lab.wait(90) == []


def test_a_file_that_landed_stays_while_the_item_rests_on_a_machine():
    """An item that was moved from its address to RAM keeps its file on the SSD."""
    lab, spec = Lab().join(), remote("far", idle_s=10.0)
    lab.register(spec)
    lab.do(lab.tell(MoveOrdered(spec.item, RAM, "user")))
    assert lab.wait(50) == []
    assert lab.phase(spec, SSD) == lab.phase(spec, RAM) == "ready"


def test_moving_back_to_the_network_drops_all_local_copies():
    """An order to the network is done at once, for the address is always there."""
    lab, spec = Lab().join(), remote("far", idle_s=1000.0)
    lab.register(spec)
    lab.do(lab.tell(MoveOrdered(spec.item, RAM, "user")))
    lab.do(lab.tell(MoveOrdered(spec.item, Place("desk", Tier.NETWORK), "user")))
    assert lab.state.home(spec.item) == NETWORK
    assert [place for place, _ in lab.state.at(spec.item)] == [NETWORK]


def test_what_has_no_address_cannot_move_to_the_network():
    """Only an address can be the home of an item that is nowhere in the lab."""
    lab, spec = Lab().join(), role("a")
    lab.register(spec)
    with pytest.raises(UserError, match="no address") as caught:
        lab.tell(MoveOrdered(spec.item, NETWORK, "user"))
    assert caught.value.code == "TRC023"


def test_moving_to_another_machine_moves_the_landing():
    """Bytes of an address land on the machine where the item lives; a file that is there already is read."""
    lab, spec = Lab().join(), remote("far")
    lab.register(spec)
    lab.do(lab.want(spec))
    lab.now_s += 3.0
    first = lab.tell(MoveOrdered(spec.item, ATTIC_RAM, "user"))
    assert targets(first) == [(SSD, ATTIC_SSD)]
    lab.do(first)
    assert lab.state.items[spec.item].landing == ATTIC_SSD
    assert lab.state.items[spec.item].durable == NETWORK
    assert [place for place, _ in lab.state.at(spec.item)] == [ATTIC_RAM, ATTIC_SSD, NETWORK]
    assert any("lands at attic:SSD now" in told for _, told in lab.news)


def test_a_fetch_that_failed_for_good_refuses_the_want_with_its_reason():
    """Whoever waits for an address that is not there is told so at once, and so is `ps`."""
    lab, spec = Lab().join(), remote("far")
    lab.register(spec)
    (fetch,) = lab.want(spec)
    (refused,) = lab.tell(CopyFailed(fetch.op, "STO010", "404 at the hub", permanent=True))
    assert isinstance(refused, Refuse)
    assert (refused.code, refused.reason) == ("STO010", "404 at the hub")
    (row,) = rows(lab.state, lab.now_s)
    assert (row.phase, row.why) == ("failed", "404 at the hub [STO010]")


def test_a_want_whose_landing_is_on_a_lost_machine_is_refused():
    """Without the SSD where its bytes land, an item cannot be brought up."""
    lab, spec = Lab().join(), remote("far", landing=ATTIC_SSD)
    lab.register(spec)
    lab.tell(NodeLost("attic", "it burns"))
    (refused,) = lab.want(spec)
    assert refused.code == "TRC013"
    assert "attic" in refused.reason


def test_a_lost_machine_does_not_touch_an_address():
    """An item that was fetched on a machine that died is cold, not lost."""
    lab, spec = Lab().join(), remote("far")
    lab.register(spec)
    lab.do(lab.want(spec))
    lab.tell(NodeLost("desk", "it burns"))
    assert lab.state.ready(spec.item, NETWORK)
    assert rows(lab.state, lab.now_s)[0].phase == "cold"


def test_a_file_that_landed_for_a_want_is_not_evicted_before_it_is_up():
    """Two wants for more than the SSD holds go one after the other, and both end well."""
    desk = {**DESK, SSD: Room(15 * MIB)}
    lab, one, two = Lab().join(desk=desk), remote("one"), remote("two")
    lab.register(one, two)
    (fetch,) = lab.want(one)
    assert lab.want(two) == []
    up = lab.tell(Copied(fetch.op, one.nbytes, 1.0))
    assert targets(up) == [(SSD, VRAM)]
    then = lab.tell(Copied(up[0].op, one.nbytes, 0.1))
    assert [command.item for command in then if isinstance(command, Drop)] == [one.item]
    lab.do(then)
    assert lab.phase(two, VRAM) == "ready"


def test_a_file_that_waits_for_a_seat_is_not_evicted():
    """An item whose engine is busy keeps the file that it landed, though another fetch needs the room."""
    lab = Lab().join(desk={**DESK, SSD: Room(25 * MIB)})
    busy, one, two = role("busy", base="big"), remote("one", base="big"), remote("two")
    lab.register(busy, one, two)
    lab.do(lab.want(busy))
    lab.now_s += 5.0
    lab.see(VRAM, busy, seen=Seen(leases=1))
    lab.do(lab.want(one))
    assert lab.phase(one, SSD) == "ready"
    assert lab.want(two) == []


def test_a_removed_item_is_forgotten_though_its_address_remains():
    """What lies at an address is not ours to drop."""
    lab, spec = Lab().join(), remote("far")
    lab.register(spec)
    lab.do(lab.want(spec))
    lab.do(lab.tell(Removed(spec.item)))
    assert spec.item not in lab.state.items


def test_nothing_is_dropped_at_an_address():
    """Not even what was removed."""
    lab, spec = Lab().join(), remote("far")
    lab.register(spec)
    drop = Drop("", spec.item, NETWORK, "")
    assert "far@1 lies at its address" in list(objections(lab.state, drop, 0.0, LIMITS))


def test_bytes_of_an_address_go_to_the_landing_only():
    """RAM and VRAM take what an SSD holds, and so does another machine's SSD."""
    lab, spec = Lab().join(), remote("far")
    lab.register(spec)
    for target in (RAM, VRAM, ATTIC_SSD):
        copy = Copy("", spec.item, NETWORK, target, spec.nbytes, "")
        assert "what comes from the network lands at desk:SSD first" in list(
            objections(lab.state, copy, 0.0, LIMITS)
        )


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (remote("far", landing=None), "it lands at no place"),
        (role("a", landing=SSD), "durable at desk:SSD, it lands at desk:SSD"),
        (role("a", home=NETWORK), "it has no address"),
        (shard("s", durable=NETWORK), "a shard at an address is no item"),
    ],
    ids=["no landing", "landing without address", "home without address", "shard"],
)
def test_an_address_and_its_landing_belong_together(spec, why):
    """A registration that says half of it is refused."""
    with pytest.raises(UserError, match=why) as caught:
        Lab().join().tell(Registered(spec, (spec.durable,)))
    assert caught.value.code == "TRC024"


def test_the_network_is_no_node():
    """It neither joins nor beats."""
    lab = Lab().join()
    for event in (NodeJoined("network", {}), Beat("network", 0.0, {})):
        with pytest.raises(UserError) as caught:
            lab.tell(event)
        assert caught.value.code == "TRC021"


def test_the_network_is_written_as_one_word():
    """There is one network, so no node is named."""
    assert str(NETWORK) == "network"
