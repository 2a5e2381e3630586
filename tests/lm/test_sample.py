"""Choosing tokens: greedy is the best, draws follow the asked distribution, each answer has its own dice."""

import math
from itertools import pairwise

import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from actors.lm.request import Sampling
from actors.lm.sample import HEAD, Drawing, choose, dice
from placement.errors import UserError

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 5.0])
GREEDY = Drawing(Sampling())


def tokens(logits, *drawings):
    """The chosen tokens, one for each row."""
    return [choice and choice.token for choice in choose(logits, drawings)]


def draws(count, logits=LOGITS, seen=(), **sampling):
    """How often each token came in `count` seeded draws of one answer."""
    drawing = Drawing.of(Sampling(seed=3, **sampling), seen)
    counts = torch.zeros(len(logits))
    for _ in range(count):
        counts[tokens(logits[None], drawing)[0]] += 1
    return counts


def transformers_chances(logits, seen, *, temperature, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0):
    """What transformers' own processors, in the order of its `generate`, leave to draw from."""
    steps = LogitsProcessorList(
        [RepetitionPenaltyLogitsProcessor(repetition_penalty), TemperatureLogitsWarper(temperature)]
        + ([TopKLogitsWarper(top_k)] if top_k else [])
        + ([TopPLogitsWarper(top_p)] if top_p < 1 else [])
        + ([MinPLogitsWarper(min_p)] if min_p else [])
    )
    return torch.softmax(steps(torch.tensor([seen]), logits[None].clone())[0], -1)


class Aimed:
    """Dice that show a chosen share of the whole."""

    def __init__(self, share):
        self.share = share

    def random_raw(self):
        return int(self.share * 2**53) << 11


def drawn_chances(logits, seen, **sampling):
    """The chance of each token by our draw: where, between 0 and 1, the dice change from it to the next."""
    drawing = Drawing(Sampling(**sampling), None, [*seen])

    def at(share):
        drawing.dice = Aimed(share)
        return tokens(logits[None], drawing)[0]

    def edges(low, high):
        """Every place in (low, high] from which another token is drawn."""
        if at(low) == at(high):
            return []
        if high - low < 1e-7:
            return [high]
        return [*edges(low, (low + high) / 2), *edges((low + high) / 2, high)]

    last = 1 - 2**-53
    places = [0.0, *edges(0.0, last), 1.0]
    chances = torch.zeros(len(logits))
    for low, high in pairwise(places):
        chances[at(low)] = high - low
    return chances


def test_temperature_zero_takes_the_best():
    """Greedy needs no dice and takes the first of equals."""
    assert dice(Sampling(temperature=0)) is None
    assert tokens(torch.stack([LOGITS, torch.zeros(5)]), GREEDY, GREEDY) == [4, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_greedy_is_the_argmax_in_each_dtype(dtype):
    """A batch of greedy rows gives what torch's argmax gives."""
    logits = torch.randn(16, 999, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert tokens(logits, *[GREEDY] * 16) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e-39, 5e-324, 1e-6])
def test_a_tiny_temperature_draws_the_best(temperature):
    """Dividing by next to nothing does not overflow: the draw is the best token."""
    assert draws(5, temperature=temperature, top_p=0.9, top_k=3)[4] == 5
    assert draws(5, LOGITS * 1e37, temperature=temperature)[4] == 5


def test_draws_follow_the_temperature():
    """Frequencies approach softmax(logits / temperature)."""
    counts = draws(2000, temperature=2.0)
    torch.testing.assert_close(counts / 2000, torch.softmax(LOGITS / 2, -1), atol=0.03, rtol=0)


def test_top_k_keeps_the_k_best():
    """Only the two best tokens are ever drawn."""
    assert draws(300, temperature=5.0, top_k=2).nonzero().flatten().tolist() == [0, 4]


@pytest.mark.parametrize(("top_p", "kept"), [(0.01, [4]), (0.92, [4]), (0.95, [0, 4]), (0.995, [0, 1, 2, 4])])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, kept):
    """The best tokens stay until their probability reaches top_p; the best one always stays."""
    assert draws(1500, temperature=1.0, top_p=top_p).nonzero().flatten().tolist() == kept


def test_of_equals_at_the_edge_of_top_p_the_first_stay():
    """A set of equal tokens is cut after as many of the first as reach top_p."""
    assert draws(200, torch.zeros(10), temperature=1.0, top_p=0.25).nonzero().flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 0.6, "top_k": 7},
        {"temperature": 1.3, "top_p": 0.8},
        {"temperature": 1.0, "min_p": 0.1},
        {"temperature": 1.0, "repetition_penalty": 1.8},
        {"temperature": 1.0, "repetition_penalty": 0.5},
        {"temperature": 0.7, "top_k": 12, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.3},
        {"temperature": 2.5, "top_k": 25, "top_p": 0.7, "min_p": 0.3},
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_chances_equal_those_of_transformers(settings, seed):
    """Penalty, temperature, top_k, top_p and min_p leave the same tokens with the same chances."""
    logits = torch.randn(40, generator=torch.Generator().manual_seed(seed)) * 2
    seen = [3, 3, 17, 39, 0]
    expected = transformers_chances(logits, seen, **settings)
    torch.testing.assert_close(drawn_chances(logits, seen, **settings), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [0.1, 1.0, 6.0])
@pytest.mark.parametrize("settings", [{"top_p": 0.3}, {"top_p": 0.9}, {"top_p": 0.9, "top_k": 5000}])
def test_a_large_vocabulary_draws_from_the_set_of_transformers(scale, settings):
    """Whether the head suffices for top_p or all must be ordered, what transformers keeps is drawn from."""
    logits = torch.randn(4 * HEAD, generator=torch.Generator().manual_seed(5)) * scale
    expected = transformers_chances(logits, [0], temperature=1.0, **settings)
    kept = expected.nonzero().flatten()
    assert set(draws(100, logits, temperature=1.0, **settings).nonzero().flatten().tolist()) <= {
        *kept.tolist()
    }
    first, last = (Drawing(Sampling(temperature=1.0, **settings), Aimed(share)) for share in (0, 1 - 2**-53))
    assert tokens(torch.stack([logits, logits]), first, last) == [int(kept[0]), int(kept[-1])]


def test_the_penalty_looks_at_prompt_and_answer():
    """A greedy answer avoids what the prompt had, and then what it has said itself."""
    drawing = Drawing.of(Sampling(repetition_penalty=100.0), [4, 4])
    said = []
    for _ in range(3):
        said += tokens(LOGITS[None], drawing)
        drawing.seen.append(said[-1])
    assert said == [0, 1, 4]


def test_a_draw_depends_on_its_own_dice_only():
    """The same request draws the same tokens whoever shares its batch."""
    flat = torch.zeros(2, 100)
    first, second, other = (Drawing.of(Sampling(temperature=1.0, seed=seed), []) for seed in (1, 1, 2))
    alone = [tokens(flat[:1], first)[0] for _ in range(10)]
    beside = [tokens(flat, other, second)[1] for _ in range(10)]
    assert alone == beside
    assert len({*alone}) > 1


def test_draws_do_not_depend_on_torch_threads():
    """The choice is the same with one thread and with two."""
    logits = torch.randn(1, 70_000, generator=torch.Generator().manual_seed(2))

    def drawn():
        drawing = Drawing.of(Sampling(temperature=1.0, seed=5, top_p=0.99), [])
        return [tokens(logits, drawing)[0] for _ in range(10)]

    alone = drawn()
    torch.set_num_threads(2)
    try:
        assert drawn() == alone
    finally:
        torch.set_num_threads(1)


def test_the_first_of_several_answers_is_that_of_one():
    """Answer 0 of n draws what a request for one answer draws; the others each draw their own."""
    flat = torch.zeros(1, 1000)

    def answer(index, **sampling):
        drawing = Drawing.of(Sampling(temperature=1.0, seed=9, **sampling), [], index)
        return tuple(tokens(flat, drawing)[0] for _ in range(8))

    assert answer(0, n=4) == answer(0)
    assert len({answer(index, n=4) for index in range(4)}) == 4


def test_all_bits_of_a_seed_count():
    """Seeds that differ in their high bits only draw differently."""
    flat = torch.zeros(1, 100_000)
    seeds = (1, 1 + 2**32, 1 + 2**62)
    assert (
        len({*(tokens(flat, Drawing.of(Sampling(temperature=1, seed=seed), []))[0] for seed in seeds)}) == 3
    )


def test_without_a_seed_draws_differ():
    """Two unseeded requests have different dice."""
    first, second = dice(Sampling(temperature=1)), dice(Sampling(temperature=1))
    assert first.random_raw() != second.random_raw()


def test_a_draw_never_takes_a_token_without_a_chance():
    """Even dice at their ends meet tokens that the settings left."""
    logits = torch.full((8,), -200.0)
    logits[3] = 0
    for share in (0.0, 1 - 2**-53):
        assert tokens(logits[None], Drawing(Sampling(temperature=1.0), Aimed(share))) == [3]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_no_answer(value):
    """A broken row gives None and leaves the others as they are."""
    broken = LOGITS.clone()
    broken[1] = value
    drawn = Drawing.of(Sampling(temperature=1.0, seed=1, logprobs=2), [])
    rows = torch.stack([broken, LOGITS, broken])
    assert tokens(rows, GREEDY, GREEDY, drawn) == [None, 4, None]


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.3, "top_k": 1, "repetition_penalty": 3.0, "seed": 1}]
)
def test_logprobs_are_those_of_the_unchanged_distribution(sampling):
    """The token and the likeliest carry log_softmax of the logits, whatever the settings make of them."""
    logits = torch.randn(2, 500, generator=torch.Generator().manual_seed(4)) * 3
    drawing = Drawing.of(Sampling(logprobs=5, **sampling), [int(logits[0].argmax())])
    first, second = choose(logits, [drawing, GREEDY])
    expected = torch.log_softmax(logits[0], -1)
    best = torch.topk(expected, 5)
    assert second.logprob is None
    assert first.logprob.token == first.token
    assert first.logprob.logprob == pytest.approx(float(expected[first.token]), abs=1e-5)
    assert [token for token, _ in first.logprob.top] == best.indices.tolist()
    assert [value for _, value in first.logprob.top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_logprobs_without_alternatives():
    """0 asks for the token's own log-probability alone; more than the vocabulary gives all of it."""
    drawings = [Drawing(Sampling(logprobs=count)) for count in (0, 20)]
    none, every = choose(torch.stack([LOGITS, LOGITS]), drawings)
    assert none.logprob.top == ()
    assert [token for token, _ in every.logprob.top] == [4, 0, 1, 2, 3]
    assert sum(math.exp(value) for _, value in every.logprob.top) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1},
        {"temperature": math.nan},
        {"temperature": "1"},
        {"temperature": True},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_p": math.nan},
        {"top_p": "1"},
        {"top_k": -1},
        {"top_k": 2.0},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"min_p": math.nan},
        {"repetition_penalty": 0},
        {"repetition_penalty": math.inf},
        {"repetition_penalty": "1"},
        {"seed": 2**70},
        {"seed": -1},
        {"seed": 1.5},
        {"seed": True},
        {"max_tokens": 0},
        {"max_tokens": 5.5},
        {"max_tokens": True},
        {"stop": ("",)},
        {"stop": ("x",) * 17},
        {"stop": (5,)},
        {"stop": "User:"},
        {"stop_tokens": [5]},
        {"stop_tokens": (-1,)},
        {"stop_tokens": ("5",)},
        {"stop_tokens": (1,) * 65},
        {"logprobs": 21},
        {"logprobs": -1},
        {"logprobs": True},
        {"n": 0},
        {"n": 65},
        {"n": 1.0},
        {"ignore_eos": 1},
    ],
)
def test_values_out_of_range_are_refused(values):
    """Each field says what it was and what is allowed, also where its type is another one."""
    name, value = next(iter(values.items()))
    with pytest.raises(UserError, match=name) as refused:
        Sampling(**values)
    assert refused.value.code == "LM006"
    assert repr(value) in str(refused.value)
    assert "allowed" in str(refused.value)
