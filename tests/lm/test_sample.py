"""Choosing tokens: greedy is the best, draws follow the asked distribution, each request has its own dice."""

import math

import pytest
import torch

from actors.lm.request import Sampling
from actors.lm.sample import choose, dice
from placement.errors import UserError

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 5.0])


def draws(count, logits=LOGITS, **sampling):
    """How often each token came in `count` seeded draws."""
    asked = Sampling(seed=3, **sampling)
    generator = dice(asked)
    counts = torch.zeros(len(logits))
    for _ in range(count):
        (token,) = choose(logits[None], [(asked, generator)])
        counts[token] += 1
    return counts


def test_temperature_zero_takes_the_best():
    """Greedy needs no dice."""
    assert dice(Sampling(temperature=0)) is None
    assert choose(LOGITS[None], [(Sampling(), None)]) == [4]


@pytest.mark.parametrize("temperature", [1e-39, 5e-324, 1e-6])
def test_a_tiny_temperature_draws_the_best(temperature):
    """Dividing by next to nothing does not overflow: the draw is the best token."""
    assert draws(5, temperature=temperature, top_p=0.9, top_k=3)[4] == 5


def test_draws_follow_the_temperature():
    """Frequencies approach softmax(logits / temperature)."""
    counts = draws(2000, temperature=2.0)
    expected = torch.softmax(LOGITS / 2, -1)
    torch.testing.assert_close(counts / 2000, expected, atol=0.03, rtol=0)


def test_top_k_keeps_the_k_best():
    """Only the two best tokens are ever drawn."""
    assert draws(300, temperature=5.0, top_k=2).nonzero().flatten().tolist() == [0, 4]


@pytest.mark.parametrize(("top_p", "kept"), [(0.01, [4]), (0.92, [4]), (0.95, [0, 4]), (0.995, [0, 1, 2, 4])])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, kept):
    """The best tokens stay until their probability reaches top_p; the best one always stays."""
    assert draws(1500, temperature=1.0, top_p=top_p).nonzero().flatten().tolist() == kept


def test_a_draw_depends_on_its_own_dice_only():
    """The same request draws the same tokens whoever shares its batch."""
    asked = [Sampling(temperature=1.0, seed=seed) for seed in (1, 2)]
    flat = torch.zeros(2, 100)
    first, second = dice(asked[0]), dice(asked[0])
    other = dice(asked[1])
    alone = [choose(flat[:1], [(asked[0], first)])[0] for _ in range(10)]
    beside = [choose(flat, [(asked[1], other), (asked[0], second)])[1] for _ in range(10)]
    assert alone == beside


def test_without_a_seed_draws_differ():
    """Two unseeded requests have different dice."""
    first, second = dice(Sampling(temperature=1)), dice(Sampling(temperature=1))
    assert first.initial_seed() != second.initial_seed()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_no_answer(value):
    """A broken row gives None and leaves the others as they are."""
    broken = LOGITS.clone()
    broken[1] = value
    greedy = (Sampling(), None)
    drawn = Sampling(temperature=1.0, seed=1)
    rows = torch.stack([broken, LOGITS, broken])
    assert choose(rows, [greedy, greedy, (drawn, dice(drawn))]) == [None, 4, None]


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1},
        {"temperature": math.nan},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_p": math.nan},
        {"top_k": -1},
        {"seed": 2**70},
        {"seed": -1},
        {"max_tokens": 0},
        {"stop": ("",)},
        {"stop": ("x",) * 17},
        {"temperature": "1"},
        {"temperature": True},
        {"top_p": "1"},
        {"top_k": 2.0},
        {"seed": 1.5},
        {"seed": True},
        {"max_tokens": 5.5},
        {"max_tokens": True},
        {"stop": (5,)},
        {"stop": "User:"},
    ],
)
def test_values_out_of_range_are_refused(values):
    """Each field says what it was and what is allowed, also where its type is another one."""
    with pytest.raises(UserError, match=next(iter(values))) as refused:
        Sampling(**values)
    assert refused.value.code == "LM006"
