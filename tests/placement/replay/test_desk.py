import random

import pytest

from placement.errors import UserError
from placement.replay.replay import POLICIES, play
from placement.replay.stage import plain
from placement.replay.trace import BUS, DISK, Ask, Cargo, Header, Trace
from placement.replay.workloads import generate
from placement.state import Item
from placement.tiers import Tier

MB = 10**6
RIVALS = tuple(policy for policy in POLICIES if policy != "tierce")


def trace(*asks, ram=10**9, nbytes=100 * MB):
    """Return asks of roles of 100 MB: 0.1 s from the disk and 0.01 s over the bus, without latency."""
    items = {Item(f"{role}@1"): Cargo(nbytes, role) for role in dict.fromkeys(ask[1] for ask in asks)}
    header = Header("test", None, items, 8, ram, {DISK: 1e9, BUS: 1e10}, {DISK: 0.0, BUS: 0.0})
    return Trace(header, tuple(Ask(*ask) for ask in asks))


def replay(made, policy, slots):
    """Return how a policy does on the stage that a trace's header describes."""
    return play(made, policy, plain(made.header, slots))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_cold_ask_is_exposed_for_its_copies_and_a_warm_one_is_not(policy):
    """The first ask comes from the disk, the second finds it seated."""
    score = replay(trace((0.0, "a", 0.1), (1.0, "a", 0.1)), policy, 8)
    assert score.total_s == pytest.approx(0.11)
    assert score.found == {Tier.VRAM: 1, Tier.RAM: 0, Tier.SSD: 1}
    assert score.moved == {DISK: 100 * MB, BUS: 100 * MB}


@pytest.mark.parametrize("policy", POLICIES)
def test_who_asks_while_an_item_is_on_its_way_waits_for_the_same_copy(policy):
    """One copy serves both, and the second ask has waited less."""
    score = replay(trace((0.0, "a", 0.1), (0.05, "a", 0.1)), policy, 8)
    assert score.total_s == pytest.approx(0.11 + 0.06)
    assert score.moved[DISK] == 100 * MB


@pytest.mark.parametrize("policy", POLICIES)
def test_copies_over_one_hop_go_one_after_the_other(policy):
    """The second waits for the disk, and not for the bus."""
    score = replay(trace((0.0, "a", 0.1), (0.0, "b", 0.1)), policy, 8)
    assert score.total_s == pytest.approx(0.11 + 0.21)


@pytest.mark.parametrize("policy", RIVALS)
def test_what_is_leased_is_not_evicted_and_a_miss_waits_for_its_end(policy):
    """One seat: b comes when a's lease has ended, at 2.11 s."""
    score = replay(trace((0.0, "a", 2.0), (1.0, "b", 0.1)), policy, 1)
    assert score.total_s == pytest.approx(0.11 + 1.11 + 0.11)
    assert score.evicted[Tier.VRAM] == 1


@pytest.mark.parametrize("policy", RIVALS)
def test_what_left_its_seat_comes_back_from_ram(policy):
    """Bytes from the disk stay in RAM while there is room."""
    score = replay(trace((0.0, "a", 0.1), (1.0, "b", 0.1), (2.0, "a", 0.1)), policy, 1)
    assert score.found == {Tier.VRAM: 0, Tier.RAM: 1, Tier.SSD: 2}
    assert score.total_s == pytest.approx(0.11 + 0.11 + 0.01)


@pytest.mark.parametrize("policy", RIVALS)
def test_without_room_in_ram_nothing_stays_there(policy):
    """The bytes only pass through."""
    score = replay(trace((0.0, "a", 0.1), (1.0, "b", 0.1), (2.0, "a", 0.1), ram=0), policy, 1)
    assert score.found[Tier.RAM] == 0
    assert score.evicted == {Tier.VRAM: 2, Tier.RAM: 0}


def test_the_clairvoyant_cache_keeps_what_is_needed_first():
    """Two seats, and c comes: LRU sends a away, which is asked next; the clairvoyant one sends b."""
    asks = trace((0.0, "a", 0.1), (1.0, "b", 0.1), (2.0, "c", 0.1), (3.0, "a", 0.1), (9.0, "b", 0.1), ram=0)
    assert replay(asks, "lru", 2).found[Tier.VRAM] == 0
    assert replay(asks, "clairvoyant", 2).found[Tier.VRAM] == 1


@pytest.mark.parametrize("workload", ["zipf-1.0", "hot-set", "round-table", "flash"])
@pytest.mark.parametrize("slots", [8, 16])
def test_nobody_without_foresight_has_less_exposed_seconds_than_the_clairvoyant_cache(workload, slots):
    """Of the caches that load on demand."""
    made = generate(workload, random.Random(5), 1500)
    best_s = replay(made, "clairvoyant", slots).total_s
    assert all(replay(made, policy, slots).total_s > best_s for policy in ("lru", "lfu", "gdsf"))


def test_quantiles_are_over_all_asks_the_warm_ones_included():
    """Two of a hundred asks are cold: the 95th is 0, the 99th is the shorter wait, the total is both."""
    asks = [(0.0, "a", 0.0), *((1.0 + t, "a", 0.0) for t in range(98)), (200.0, "b", 0.0)]
    score = replay(trace(*asks), "lru", 8)
    assert (score.p50_s, score.p95_s, score.p99_s) == (0.0, 0.0, pytest.approx(0.11))
    assert score.total_s == pytest.approx(0.22)


def test_an_unknown_policy_is_an_error_that_lists_the_known_ones():
    """All of them stand in the hint."""
    with pytest.raises(UserError, match=r"unknown policy 'mru' \[TRC083\]") as told:
        replay(trace((0.0, "a", 0.1)), "mru", 8)
    assert told.value.hint == "policies: tierce, lru, lfu, gdsf, clairvoyant"
