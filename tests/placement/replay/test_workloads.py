import random
from collections import Counter, OrderedDict
from itertools import pairwise

import pytest

from placement.errors import UserError
from placement.replay.workloads import WORKLOADS, generate

SLOTS = (2, 4, 8, 16, 32, 64)
#: share of the first and of the first ten, then LRU's hit ratios by SLOTS, as computed apart from this code
KNOWN = {
    "slora-1.0": (0.006, 0.061, (0.010, 0.020, 0.039, 0.078, 0.157, 0.320)),
    "slora-0.3": (0.207, 0.408, (0.093, 0.161, 0.248, 0.337, 0.450, 0.610)),
    "slora-0.1": (0.586, 0.738, (0.498, 0.601, 0.650, 0.703, 0.767, 0.845)),
    "zipf-1.0": (0.169, 0.497, (0.089, 0.165, 0.279, 0.421, 0.565, 0.725)),
    "zipf-1.2": (0.245, 0.597, (0.153, 0.262, 0.396, 0.525, 0.637, 0.744)),
    "punica": (0.335, 0.984, (0.377, 0.668, 0.931, 0.997, 0.999, 0.999)),
    "llm-d": (0.120, 0.894, (0.184, 0.358, 0.668, 0.999)),
    "hot-set": (0.031, 0.258, (0.134, 0.258, 0.432, 0.626, 0.819, 0.913)),
}


def trace(name, asks, seed=42):
    """Return a workload drawn with the dice of a seed."""
    return generate(name, random.Random(seed), asks, seed)


def lru_hits(roles, slots):
    """Return LRU's hit ratio, by a cache that shares nothing with the rivals of a replay."""
    held, hits = OrderedDict(), 0
    for role in roles:
        hits += role in held
        held[role] = True
        held.move_to_end(role)
        if len(held) > slots:
            held.popitem(last=False)
    return hits / len(roles)


@pytest.mark.parametrize("name", KNOWN)
def test_a_workload_has_the_skew_and_the_lru_hit_ratios_that_are_known_of_it(name):
    """Two draws of 20,000 asks differ by a hundredth or so; of 4,000, from eight hot sets, by more."""
    roles = [ask.role for ask in trace(name, 4_000 if name == "hot-set" else 20_000).asks]
    first, ten, ratios = KNOWN[name]
    noise = 0.03 if name == "hot-set" else 0.016
    ranked = [count / len(roles) for _, count in Counter(roles).most_common(10)]
    assert ranked[0] == pytest.approx(first, abs=noise)
    assert sum(ranked) == pytest.approx(ten, abs=noise)
    assert [lru_hits(roles, slots) for slots in SLOTS[: len(ratios)]] == pytest.approx(ratios, abs=noise)


@pytest.mark.parametrize("name", WORKLOADS)
def test_equal_dice_give_equal_traces_and_other_dice_give_others(name):
    """The seed in a header is enough to draw the trace again."""
    assert trace(name, 200) == trace(name, 200)
    assert trace(name, 200).asks != trace(name, 200, seed=7).asks


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_asks_of_a_workload_come_in_the_order_of_their_times_and_name_its_roles(name):
    """What `read` would refuse is never made."""
    made = trace(name, 500)
    roles = {cargo.role for cargo in made.header.items.values()}
    times = [ask.t for ask in made.asks]
    assert len(times) == 500
    assert times == sorted(times)
    assert all(ask.role in roles and ask.after in {None, *roles} and ask.busy_s >= 0 for ask in made.asks)


def test_a_gamma_arrival_of_cv_4_is_four_times_as_uneven_as_poisson():
    """The coefficient of variation is that of the intervals."""

    def unevenness(name):
        times = [ask.t for ask in trace(name, 20_000).asks]
        gaps = [after - before for before, after in pairwise(times)]
        mean = sum(gaps) / len(gaps)
        return (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 / mean

    assert unevenness("slora-0.3") == pytest.approx(1.0, abs=0.1)
    assert unevenness("gamma-cv4") == pytest.approx(4.0, abs=0.4)


def test_a_flash_crowd_comes_with_about_five_times_the_rate():
    """In the first two ticks of a crowd, against the thirty before it."""
    ticks = Counter(int(ask.t // 3) % 200 for ask in trace("flash", 20_000).asks)
    calm = sum(ticks[tick] for tick in range(20, 50)) / 30
    assert sum(ticks[tick] for tick in (50, 51)) / 2 / calm == pytest.approx(4.8, abs=0.6)


def counts(name, step_s, steps):
    """Return how many asks of a workload come in each step, from the first on."""
    asked = Counter(int(ask.t // step_s) for ask in trace(name, 20_000).asks)
    return [asked[step] for step in range(steps)]


def test_asks_of_a_markov_chain_come_in_bursts():
    """Of Poisson's counts the variance is the mean; here it is more, the more so over longer steps."""

    def dispersion(name, step_s):
        told = counts(name, step_s, int(3000 // step_s))
        mean = sum(told) / len(told)
        return sum((count - mean) ** 2 for count in told) / len(told) / mean

    assert dispersion("zipf-1.0", 30.0) == pytest.approx(1.0, abs=0.4)
    assert dispersion("mmpp", 3.0) > 1.5
    assert dispersion("mmpp", 30.0) > 5.0


def test_the_calmest_and_the_busiest_twelfth_of_a_day_lie_half_a_day_apart():
    """Ten asks in a tick against fifty: the calmest begins the day."""
    asked = counts("diurnal", 25.0, 12 * 20)
    twelfths = [sum(asked[twelfth::12]) for twelfth in range(12)]
    calm, busy = min(twelfths[0], twelfths[11]), max(twelfths[5], twelfths[6])
    assert (calm, busy) == (min(twelfths), max(twelfths))
    assert busy / calm == pytest.approx(4.6, abs=0.8)


def test_at_a_round_table_who_is_announced_speaks_next_at_that_table_nine_times_out_of_ten():
    """One turn in ten is an interruption, and then the announcement was wrong."""
    asks = trace("round-table", 4_000).asks
    announced, kept = set(), 0
    for ask in asks:
        kept += ask.role in announced
        announced -= {ask.role}
        announced.add(ask.after)
    assert kept / len(asks) == pytest.approx(0.9, abs=0.03)


def test_an_unknown_workload_is_an_error_that_lists_the_known_ones():
    """A name that is near is not guessed."""
    with pytest.raises(UserError, match=r"unknown workload 'zipf' \[TRC080\]") as told:
        trace("zipf", 1)
    assert (
        "zipf-1.2: InfiniLoRA's Zipf 1.2; punica: Punica's skew: each 1.5 times the next;" in told.value.hint
    )
