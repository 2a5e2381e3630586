"""Orders to warm and to unload: what they bring and send away, whom they spare, and how they end."""

import pytest

from placement.messages import (
    Copied,
    Copy,
    CopyFailed,
    Drop,
    MoveOrdered,
    Registered,
    Removed,
    Seen,
    Tick,
    UnloadOrdered,
    WarmOrdered,
)
from placement.state import NETWORK
from tests.placement.brain_lab import MIB, RAM, SSD, VRAM, Lab, remote, role, shard


def warm(lab, spec, within_s=30.0):
    """Order an item to be warm."""
    return lab.tell(WarmOrdered(spec.item, "the next speaker", within_s))


def served(lab, *specs):
    """Bring items into VRAM by wants, one after the other, a second apart, and let their holds end."""
    for spec in specs:
        lab.do(lab.want(spec))
        lab.now_s += 1.0
    lab.now_s += 5.0


def told(lab, spec):
    """Return the news of an item, oldest first."""
    return [text for item, text in lab.news if item == spec.item]


def test_a_warm_item_is_where_it_serves_before_anybody_asks():
    """It is copied, nothing is granted, and the story says that it is warm."""
    lab, spec = Lab().join(), role("a")
    lab.register(spec)
    (copy,) = warm(lab, spec)
    assert (copy.target, copy.reason) == (VRAM, "warmed: the next speaker")
    assert lab.tell(Copied(copy.op, spec.nbytes, 0.1)) == []
    assert not lab.state.warms
    assert told(lab, spec)[-1] == "warm at desk:VRAM(cpu)"


def test_what_comes_from_an_address_is_warmed_over_its_landing():
    """The fetch is the first half of the way."""
    lab, spec = Lab().join(), remote("far")
    lab.register(spec)
    (copy,) = warm(lab, spec)
    assert (copy.source, copy.target) == (NETWORK, SSD)
    lab.do([copy])
    assert lab.phase(spec, VRAM) == "ready"


def test_warming_takes_the_seat_of_an_idle_guest():
    """A guest that was last used before the order gives way, the one idle longest first."""
    lab, one, two, three = Lab().join(), role("one"), role("two"), role("three")
    lab.register(one, two, three)
    served(lab, one, two)
    (drop,) = warm(lab, three)
    assert (drop.item, drop.place) == (one.item, VRAM)
    lab.do([drop])
    assert lab.phase(three, VRAM) == "ready"


@pytest.mark.parametrize("change", [{"home": VRAM}, {"pinned": True, "home": VRAM}], ids=["home", "pinned"])
def test_warming_evicts_nobody_who_rests_there(change):
    """Who lives in VRAM is no surplus, and the warm order ends in words when its time is over."""
    lab = Lab().join()
    one, two, three = role("one", **change), role("two", **change), role("three")
    lab.do(lab.register(one, two, three))
    lab.now_s += 10.0
    assert warm(lab, three, within_s=5.0) == []
    assert lab.wait(6.0) == []
    (end,) = [text for text in told(lab, three) if text.startswith("not warm")]
    assert "2 seats for base small, and 2 are taken" in end


def test_warming_evicts_nobody_in_use():
    """A lease keeps its seat."""
    lab, one, two, three = Lab().join(), role("one"), role("two"), role("three")
    lab.register(one, two, three)
    served(lab, one, two)
    lab.see(VRAM, one, two, seen=Seen(leases=1))
    assert warm(lab, three) == []


def test_two_warm_orders_do_not_take_the_seat_from_each_other():
    """What became warm after an order was given is no room for it."""
    lab = Lab().join()
    specs = [role(name, at_start=True) for name in ("one", "two", "three")]
    lab.do(lab.register(*specs))
    assert lab.wait(20) == []
    assert [lab.phase(spec, VRAM) for spec in specs] == ["ready", "ready", None]


def test_the_next_speaker_takes_the_seat_of_the_one_before():
    """With two seats, a table of three is always one turn ahead."""
    lab = Lab().join()
    one, two, three = (role(name) for name in ("one", "two", "three"))
    lab.register(one, two, three)
    served(lab, one)
    lab.do(warm(lab, two))
    served(lab, two)
    lab.do(warm(lab, three))
    assert lab.phase(three, VRAM) == lab.phase(two, VRAM) == "ready"


def test_a_warm_item_is_not_brought_over_the_high_mark():
    """Unasked, VRAM is filled to its high mark and no further."""
    lab = Lab().join()
    one, two = (role(name, nbytes=45 * 2**20) for name in ("one", "two"))
    lab.register(one, two)
    lab.do(lab.want(one))
    assert warm(lab, two) == []
    assert [type(command) for command in lab.want(two)] == [Copy]


def test_a_want_comes_before_a_warm_order():
    """A seat that somebody waits for is not given to who may come."""
    lab, one, two = Lab().join(), role("one", base="big"), role("two", base="big")
    lab.register(one, two)
    commands = [*warm(lab, two), *lab.want(one)]
    assert [command.item for command in commands if isinstance(command, Copy)] == [two.item]
    ready = lab.do(commands)
    assert {command.item for command in ready if isinstance(command, Drop)} == {two.item}
    assert lab.phase(one, VRAM) == "ready"


def test_room_that_a_want_waits_for_is_not_taken_by_who_may_come():
    """A large item waits until a lease ends, and what is free meanwhile is kept for it."""
    lab = Lab().join()
    guest, large, small = role("guest", nbytes=60 * MIB), role("large", nbytes=60 * MIB), role("small")
    lab.register(guest, large, small)
    served(lab, guest)
    lab.see(VRAM, guest, seen=Seen(leases=1))
    assert lab.want(large) == []
    assert warm(lab, small) == []


def test_a_failure_for_good_ends_a_warm_order():
    """It does not wait for its time to be over."""
    lab, spec = Lab().join(), role("a")
    lab.register(spec)
    (copy,) = warm(lab, spec)
    lab.tell(CopyFailed(copy.op, "ADP001", "another base", permanent=True))
    assert not lab.state.warms
    assert told(lab, spec)[-1] == "not warm at desk:VRAM(cpu) in time: another base [ADP001]"


def test_warming_what_is_warm_says_so_and_keeps_it():
    """The order ends at once, and the item counts as used."""
    lab, one, two, three = Lab().join(), role("one"), role("two"), role("three")
    lab.register(one, two, three)
    served(lab, one, two)
    assert warm(lab, one) == []
    assert told(lab, one)[-1] == "warm at desk:VRAM(cpu)"
    assert [command.item for command in lab.want(three)] == [two.item]


def test_what_serves_after_another_is_warmed_when_that_is_granted():
    """`warm: {after: [coder]}` fires at the grant, and never by being warm itself."""
    lab = Lab().join()
    coder, critic, last = role("coder"), role("critic", after=("coder",)), role("last", after=("critic",))
    lab.register(coder, critic, last)
    lab.now_s += 60.0
    lab.do(lab.want(coder))
    assert lab.phase(critic, VRAM) == "ready"
    assert "to be warm: coder was used" in told(lab, critic)
    assert not told(lab, last)[1:]


@pytest.mark.parametrize("seen", [Seen(hits=5), Seen(leases=1)], ids=["hits", "leases"])
def test_what_serves_after_another_is_warmed_when_a_beat_shows_use(seen):
    """A warm ask reaches no coordinator, so the beat tells of it."""
    lab, coder, critic = Lab().join(), role("coder"), role("critic", after=("coder",))
    lab.register(coder, critic)
    lab.do(lab.want(coder))
    lab.now_s += 60.0
    (copy,) = lab.see(VRAM, coder, seen=seen)
    assert (copy.item, copy.target) == (critic.item, VRAM)


def test_use_that_goes_on_does_not_warm_again_and_again():
    """An item that was evicted a moment after it was warmed stays away for a while."""
    lab, coder, critic = Lab().join(), role("coder"), role("critic", after=("coder",))
    lab.register(coder, critic)
    lab.now_s += 60.0
    lab.do(lab.want(coder))
    lab.now_s += 1.0
    lab.see(VRAM, coder, seen=Seen(hits=1))
    lab.now_s += 1.0
    assert lab.see(VRAM, coder, seen=Seen(hits=2)) == []
    lab.now_s += 60.0
    assert [copy.item for copy in lab.see(VRAM, coder, seen=Seen(hits=3))] == [critic.item]


def test_at_start_warms_at_the_first_registration_only():
    """A new word of the file about a known item does not bring it up."""
    lab, spec = Lab().join(), role("a", at_start=True)
    lab.do(lab.register(spec))
    assert lab.phase(spec, VRAM) == "ready"
    assert "to be warm: at start" in told(lab, spec)
    lab.do(lab.tell(UnloadOrdered(spec.item, "user")))
    assert lab.phase(spec, VRAM) is None
    assert lab.tell(Registered(spec, (SSD,))) == []


def test_a_shard_is_warmed_to_its_home():
    """An index that idled down to SSD comes back before it is asked."""
    lab, spec = Lab().join(), shard("s", idle_s=10.0, unload_to=SSD)
    lab.do(lab.register(spec))
    lab.do(lab.wait(20))
    assert lab.phase(spec, RAM) is None
    lab.do(warm(lab, spec))
    assert lab.phase(spec, RAM) == "ready"


def test_an_unloaded_item_goes_where_it_rests_when_idle():
    """It does not wait for its time to be idle, and the story says where it is."""
    lab, spec = Lab().join(), role("a", home=VRAM, unload_to=RAM)
    lab.do(lab.register(spec))
    lab.do(lab.tell(UnloadOrdered(spec.item, "the schedule")))
    assert [place for place, _ in lab.state.at(spec.item)] == [RAM, SSD]
    assert told(lab, spec)[-1] == "unloaded: it rests at desk:RAM"
    assert lab.wait(100) == []


def test_an_unloaded_guest_leaves_vram_at_once():
    """Without `unload.to` an item rests at its home."""
    lab, spec = Lab().join(), role("a")
    lab.register(spec)
    served(lab, spec)
    (drop,) = lab.tell(UnloadOrdered(spec.item, "user"))
    assert (drop.place, drop.reason) == (VRAM, "unloaded by user; it rests at desk:SSD")


def test_a_lease_is_waited_for():
    """What is in use is unloaded when its last request is over."""
    lab, spec = Lab().join(), role("a")
    lab.register(spec)
    served(lab, spec)
    lab.see(VRAM, spec, seen=Seen(leases=1, hits=1))
    assert lab.tell(UnloadOrdered(spec.item, "user")) == []
    lab.now_s += 1.0
    (drop,) = lab.see(VRAM, spec, seen=Seen(hits=1))
    assert drop.place == VRAM


def test_the_next_use_ends_an_unload():
    """A want brings an unloaded item up, and then only idling sends it down."""
    lab, spec = Lab().join(), role("a", home=VRAM, unload_to=RAM)
    lab.do(lab.register(spec))
    lab.do(lab.tell(UnloadOrdered(spec.item, "user")))
    lab.do(lab.want(spec))
    assert lab.phase(spec, VRAM) == "ready"
    assert not lab.state.unloads


def test_a_search_brings_an_unloaded_index_home():
    """A shard answers from where it is, and the beat that shows it sends the index up again."""
    lab, spec = Lab().join(), shard("s", unload_to=SSD)
    lab.do(lab.register(spec))
    lab.do(lab.tell(UnloadOrdered(spec.item, "user")))
    assert lab.phase(spec, RAM) is None
    lab.now_s += 1.0
    (copy,) = lab.see(SSD, spec, seen=Seen(hits=1))
    assert copy.target == RAM


def test_an_item_that_never_idles_can_be_unloaded():
    """`unload: {idle: never}` still lets a person send it down."""
    lab, spec = Lab().join(), role("a", home=VRAM, unload_to=RAM, idle_s=float("inf"))
    lab.do(lab.register(spec))
    lab.do(lab.tell(UnloadOrdered(spec.item, "user")))
    assert lab.phase(spec, VRAM) is None
    assert lab.wait(100) == []


def test_a_pinned_item_stays_at_its_home():
    """A pin is stronger than an order to unload."""
    lab, spec = Lab().join(), role("a", home=VRAM, unload_to=RAM, pinned=True)
    lab.do(lab.register(spec))
    assert lab.tell(UnloadOrdered(spec.item, "user")) == []
    assert lab.phase(spec, VRAM) == "ready"


def test_an_unload_that_cannot_be_done_ends_in_words():
    """A request that never ends does not keep the order open for ever."""
    lab, spec = Lab().join(), role("a")
    lab.register(spec)
    served(lab, spec)
    lab.see(VRAM, spec, seen=Seen(leases=1))
    lab.tell(UnloadOrdered(spec.item, "user"))
    lab.now_s += lab.limits.move_s
    lab.tell(Tick())
    assert not lab.state.unloads
    assert told(lab, spec)[-1] == "not unloaded: used again, or not idle in time, 1 lease held"


def test_a_move_ends_an_unload_and_removal_ends_both():
    """The last word about an item counts, and nothing is remembered of one that left."""
    lab, one, two = Lab().join(), role("one", home=VRAM, unload_to=RAM), role("two")
    lab.do(lab.register(one, two))
    lab.tell(UnloadOrdered(one.item, "user"))
    lab.tell(MoveOrdered(one.item, VRAM, "user"))
    warm(lab, two)
    lab.tell(Removed(two.item))
    assert not lab.state.unloads
    assert not lab.state.warms
