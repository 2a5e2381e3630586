"""In deterministic mode an answer does not depend on what goes on around it, to the bit.

What is compared are tokens and the log-probabilities of the 20 likeliest at each of them, as floats: they are
equal only if the logits are.
"""

import asyncio
from itertools import pairwise

import pytest

from actors.lm.decoder import Decoder
from actors.lm.request import Request, Sampling
from actors.lm.schedule import GRID

NAMES = ["plain", "rslora", "patterns"]
LENGTHS = (3, 65, 150, 1, 64, 31, 200, 9)


def load(world):
    """Load a deterministic decoder with four slots and room for many."""
    return Decoder.load(
        str(world.base), device="cpu", slots=4, max_rank=16, kv_nbytes=8 << 20, deterministic=True
    )


@pytest.fixture(scope="module")
def steady(world):
    """A deterministic decoder for all tests here."""
    decoder = load(world)
    yield decoder
    decoder.stop()


@pytest.fixture
def steady_decoder(steady, images):
    """The decoder with three adapters attached."""
    for name in NAMES:
        steady.attach(name, images[name])
    yield steady
    for item in steady.attached():
        steady.detach(item)


def question(index, count=12, **sampling):
    """One of many different requests: items and the base, prompts within a cell, of a cell and over some."""
    tokens = [(7 * place + 31 * index + 3) % 300 for place in range(LENGTHS[index % len(LENGTHS)])]
    item = [*NAMES, None][index % 4]
    return Request(f"q{index}", item, tokens, Sampling(max_tokens=count, logprobs=20, **sampling))


async def answer(decoder, request):
    """The tokens of an answer with what the model thought at each of them."""
    pieces = [piece async for piece in decoder.generate(request)]
    return [(piece.tokens, piece.logprobs) for piece in pieces]


async def ticks(decoder, count):
    """Wait for some steps, by an answer of the base."""
    async for _ in decoder.generate(Request("tick", None, [1], Sampling(max_tokens=count))):
        pass


@pytest.mark.parametrize("count", [3, 8, 16])
@pytest.mark.parametrize("more", [{}, {"temperature": 1.0, "seed": 11}], ids=["greedy", "seeded"])
async def test_alone_and_in_company_are_equal(steady_decoder, images, count, more):
    """Solo, and beside others that arrive one by one, leave in the middle, and come and go with adapters."""
    decoder = steady_decoder
    questions = [question(index, **more) for index in range(count)]
    alone = [await answer(decoder, one) for one in questions]
    leaving = decoder.generate(question(6, 300))
    await anext(leaving)
    streams = []
    for index, one in enumerate(questions):
        streams.append(asyncio.create_task(answer(decoder, one)))
        await ticks(decoder, 1 + index % 3)
        if index == count // 2:
            await leaving.aclose()
        await asyncio.to_thread(decoder.attach, "subset", images["subset"])
        await ticks(decoder, 1)
        await asyncio.to_thread(decoder.detach, "subset")
    assert [await stream for stream in streams] == alone


async def test_another_slot_gives_the_same(steady_decoder, images):
    """An adapter that comes back into another slot answers as before, beside others."""
    decoder = steady_decoder
    first = [await answer(decoder, question(index)) for index in (0, 4, 8)]
    for name in NAMES:
        decoder.detach(name)
    slots = [decoder.attach(name, images[name]).slot for name in reversed(NAMES)]
    assert slots == [1, 2, 3]
    again = [asyncio.create_task(answer(decoder, question(index))) for index in (0, 4, 8, 1, 2)]
    assert [await one for one in again][:3] == first


async def test_an_answer_is_the_same_the_second_time(steady_decoder):
    """What is kept of an answer that has ended, and read again by the next one, changes nothing."""
    decoder = steady_decoder
    for index in (2, 6, 1):
        assert await answer(decoder, question(index)) == await answer(decoder, question(index))


async def test_a_second_turn_is_that_of_a_decoder_which_never_heard_the_first(steady_decoder, world, images):
    """What is read again of a session are whole cells of its first prompt, and no token of its answer."""
    decoder, first = steady_decoder, question(6, 80)
    told = [token for tokens, _ in await answer(decoder, first) for token in tokens]
    tokens = [*first.tokens, *told, 5, 6, 7]
    turn = Request("turn", first.item, tokens, Sampling(max_tokens=12, logprobs=20))
    before = decoder.stats().prefix_tokens
    warm = await answer(decoder, turn)
    assert decoder.stats().prefix_tokens - before == len(first.tokens) // GRID * GRID
    never = load(world)
    try:
        never.attach(first.item, images[first.item])
        assert await answer(never, turn) == warm
    finally:
        never.stop()


async def test_sessions_that_share_a_kept_head_answer_as_one_that_never_knew_it(
    steady_decoder, world, images
):
    """The head of three sessions is kept once, and the last one's second turn has the bits of a cold one."""
    decoder, persona = steady_decoder, [(5 * place + 2) % 300 for place in range(2 * GRID)]
    kept = []
    for at in range(3):
        own = [(3 * place + at) % 300 for place in range(GRID + 9)]
        first = Request(f"s{at}", NAMES[0], [*persona, *own], Sampling(max_tokens=4))
        told = [token for tokens, _ in await answer(decoder, first) for token in tokens]
        kept.append(decoder.stats().kv_rows_kept)
    assert [more - less for less, more in pairwise(kept)] == [GRID, GRID]
    turn = Request("turn", NAMES[0], [*first.tokens, *told, 5], Sampling(max_tokens=12, logprobs=20))
    before = decoder.stats().prefix_tokens
    warm = await answer(decoder, turn)
    assert decoder.stats().prefix_tokens - before == 3 * GRID
    never = load(world)
    try:
        never.attach(NAMES[0], images[NAMES[0]])
        assert await answer(never, turn) == warm
    finally:
        never.stop()


async def test_the_answers_of_one_prompt_are_those_of_single_requests(steady_decoder):
    """The first of n seeded answers is that of n = 1, though the others read nothing of the prompt."""
    decoder = steady_decoder
    single = await answer(decoder, question(6, temperature=1.0, seed=5))
    pieces = [piece async for piece in decoder.generate(question(6, temperature=1.0, seed=5, n=4))]
    assert [(piece.tokens, piece.logprobs) for piece in pieces if piece.index == 0] == single
    answers = [[piece.tokens for piece in pieces if piece.index == index] for index in range(4)]
    again = [piece async for piece in decoder.generate(question(6, temperature=1.0, seed=5, n=4))]
    assert [[piece.tokens for piece in again if piece.index == index] for index in range(4)] == answers


async def test_long_prompts_are_those_of_peft(steady_decoder, world):
    """Cells of a prompt that are computed in one forward see each other: greedy tokens equal PEFT's."""
    decoder = steady_decoder
    for index in (1, 2, 4, 6):
        request = question(index, 8)
        tokens = [tokens for tokens, _ in await answer(decoder, request)]
        assert [one for (one,) in tokens] == world.greedy(request.item, request.tokens, 8)
