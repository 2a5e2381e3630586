"""Our rivals beside libCacheSim, which the literature on caches uses: the same hits, ask by ask."""

import platform
import random
import sys

import pytest

from placement.replay.clairvoyant import Clairvoyant
from placement.replay.demand import Demand
from placement.replay.rivals import Gdsf, Lfu, Lru
from placement.replay.stage import plain
from placement.replay.trace import HOPS, Ask, Cargo, Header, Trace
from placement.replay.workloads import generate
from placement.state import Item

#: libcachesim has wheels for these and no others
WHEELS = (platform.system(), platform.machine()) in {
    ("Linux", "x86_64"),
    ("Darwin", "arm64"),
} and sys.version_info < (3, 14)
pytestmark = pytest.mark.skipif(not WHEELS, reason="libcachesim has no wheel for this machine")
NAMES = ("zipf-1.0", "slora-0.3", "hot-set", "round-table")
NEVER = 2**62


def workload(name, asks=1500):
    """Return who is asked in turn, the bytes of each role, and what a quarter of all bytes is."""
    made = generate(name, random.Random(1), asks)
    sizes = {cargo.role: cargo.nbytes for cargo in made.header.items.values()}
    return [ask.role for ask in made.asks], sizes, made.header.ram


def theirs(cache, sizes, asks, nbytes):
    """Return of each ask whether libCacheSim's cache of `nbytes` hits; it is told when each comes again."""
    import libcachesim

    kept = getattr(libcachesim, cache)(nbytes, hashpower=16)
    numbers = {role: number for number, role in enumerate(sizes, 1)}
    again, following = {}, []
    for at in range(len(asks) - 1, -1, -1):
        following.append(again.get(asks[at], NEVER))
        again[asks[at]] = at
    hits = []
    for at, (role, comes_again) in enumerate(zip(asks, reversed(following), strict=True)):
        request = libcachesim.Request(obj_size=sizes[role], obj_id=numbers[role], clock_time=at)
        request.next_access_vtime = comes_again
        hits.append(bool(kept.get(request)))
    return hits


class Watched(Demand):
    """A desk that writes down of each ask whether its item was in a seat or in RAM."""

    def ask(self, ask, item):
        self.__dict__.setdefault("hits", []).append(item in self.seats or item in self.ram)
        super().ask(ask, item)


def ours(order, sizes, asks, *, slots, ram):
    """Return of each ask whether our desk hits; copies take no time, and leases end at once."""
    items = {Item(role): Cargo(nbytes, role) for role, nbytes in sizes.items()}
    speeds, latencies = dict.fromkeys(HOPS, 1e18), dict.fromkeys(HOPS, 0.0)
    header = Header("", None, items, slots, ram, speeds, latencies)
    trace = Trace(header, tuple(Ask(float(at), role, 0.0) for at, role in enumerate(asks)))
    desk = Watched(trace, plain(header, slots), order(), order())
    desk.play("")
    return desk.hits


def bare(order, sizes, asks, nbytes, *, newcomer_may_go=False):
    """Return of each ask whether a cache without time hits that evicts by an order."""
    held, hits = [], []

    def evict_down_to(limit, t):
        while sum(sizes[role] for role in held) > limit:
            victim = order.worst(held, t)
            held.remove(victim)
            order.went(victim)

    for t, role in enumerate(asks):
        order.asked(role, t)
        hits.append(role in held)
        if not hits[-1]:
            evict_down_to(nbytes if newcomer_may_go else nbytes - sizes[role], t)
            order.came(role, sizes[role], t)
            held.append(role)
            evict_down_to(nbytes, t)
    return hits


def foreseeing(asks, sizes, value):
    """Return the order that knows all asks."""
    return Clairvoyant({role: [t for t, who in enumerate(asks) if who == role] for role in sizes}, value)


@pytest.mark.parametrize("slots", [8, 32])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("order", "cache"), [(Lru, "LRU"), (Lfu, "LFU")])
def test_our_seats_hit_the_very_asks_that_libcachesim_hits(order, cache, name, slots):
    """Seats are a cache of things of one size."""
    asks, sizes, _ = workload(name)
    unit = dict.fromkeys(sizes, 1)
    assert ours(order, unit, asks, slots=slots, ram=0) == theirs(cache, unit, asks, slots)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("order", "cache"), [(Lru, "LRU"), (Lfu, "LFU")])
def test_our_ram_hits_the_very_asks_that_libcachesim_hits_with_the_same_bytes(order, cache, name):
    """One seat holds who was asked last, and that one is in RAM too: together they are a cache of bytes."""
    asks, sizes, nbytes = workload(name)
    assert ours(order, sizes, asks, slots=1, ram=nbytes) == theirs(cache, sizes, asks, nbytes)


@pytest.mark.parametrize("name", NAMES)
def test_our_gdsf_hits_the_very_asks_that_libcachesim_hits(name):
    """Theirs lets a newcomer be evicted at once, which no engine can: so only the order is compared."""
    asks, sizes, nbytes = workload(name)
    unit = dict.fromkeys(sizes, 1)
    assert bare(Gdsf(), unit, asks, 8, newcomer_may_go=True) == theirs("GDSF", unit, asks, 8)
    assert bare(Gdsf(), sizes, asks, nbytes, newcomer_may_go=True) == theirs("GDSF", sizes, asks, nbytes)


@pytest.mark.parametrize("slots", [8, 32])
@pytest.mark.parametrize("name", NAMES)
def test_our_clairvoyant_cache_is_beladys_for_things_of_one_size(name, slots):
    """All cost the same to bring back, so the one that is needed last goes."""
    asks, sizes, _ = workload(name)
    unit = dict.fromkeys(sizes, 1)
    order = foreseeing(asks, unit, lambda _: 1.0)
    assert bare(order, unit, asks, slots) == theirs("Belady", unit, asks, slots)


@pytest.mark.parametrize("name", NAMES)
def test_our_clairvoyant_cache_is_at_least_as_good_as_libcachesims_with_sizes(name):
    """Theirs looks at a sample of what is there, ours at all."""
    asks, sizes, nbytes = workload(name)
    order = foreseeing(asks, sizes, lambda role: 1 / sizes[role])
    assert sum(bare(order, sizes, asks, nbytes)) >= sum(theirs("BeladySize", sizes, asks, nbytes))
