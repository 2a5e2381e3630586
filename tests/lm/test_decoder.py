"""Answers: equal to PEFT's own, alone and in one batch, whatever else goes on in the engine."""

import asyncio

import pytest

from actors.lm.decoder import Decoder
from actors.lm.prepare import prepare
from actors.lm.request import Request, Sampling

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

COUNT = 24
PROMPTS = {
    "plain": [5, 9, 100, 41, 7, 77, 201],
    "rslora": [11, 12, 13],
    "patterns": [250, 3, 3, 8, 99, 17, 180, 42, 60, 61, 62],
    "subset": [30, 31],
}


def greedy(item, tokens, count=COUNT, **more):
    """A request for `count` greedy tokens."""
    return Request(f"{item}-{len(tokens)}", item, tokens, Sampling(max_tokens=count, **more))


async def tokens_of(decoder, request):
    """Run a request to its end and return its tokens."""
    return [token async for delta in decoder.generate(request) for token in delta.tokens]


@pytest.fixture(scope="module")
def expected(world):
    """What PEFT's own generate says for each adapter, one at a time."""
    return {name: world.greedy(name, prompt, COUNT) for name, prompt in PROMPTS.items()}


@pytest.mark.parametrize("name", PROMPTS)
async def test_an_adapter_alone_answers_as_peft(decoder, images, expected, name):
    """Greedy tokens through a slot equal PeftModel.generate's for every way of setting rank and scale."""
    decoder.attach(name, images[name])
    assert await tokens_of(decoder, greedy(name, PROMPTS[name])) == expected[name]


async def test_a_second_turn_reads_only_what_is_new(decoder, images):
    """Prompt and answer of the first are used again, all but the last token, which nobody had computed."""
    decoder.attach("plain", images["plain"])
    first = [17, 170, *PROMPTS["plain"]]
    told = await tokens_of(decoder, greedy("plain", first, 8))
    before = decoder.stats().prefix_tokens
    await tokens_of(decoder, greedy("plain", [*first, *told, 9, 8, 7], 4))
    assert decoder.stats().prefix_tokens - before == len(first) + len(told) - 1


async def test_the_base_alone_answers_as_transformers(decoder, world):
    """A request without an item decodes the untouched base."""
    assert await tokens_of(decoder, greedy(None, [5, 9, 100])) == world.greedy(None, [5, 9, 100], COUNT)


async def test_all_adapters_in_one_batch_answer_as_peft(decoder, images, expected):
    """Four adapters, arriving at different moments beside the base, keep PEFT's tokens each."""
    for name in PROMPTS:
        decoder.attach(name, images[name])
    background = decoder.generate(greedy(None, [1, 2, 3], 60))
    await anext(background)
    streams = {}
    for name, prompt in PROMPTS.items():
        streams[name] = asyncio.create_task(tokens_of(decoder, greedy(name, prompt)))
        for _ in range(3):
            await anext(background)
    again = asyncio.create_task(tokens_of(decoder, greedy("plain", PROMPTS["plain"])))
    assert {name: await stream for name, stream in streams.items()} == expected
    assert await again == expected["plain"]
    await background.aclose()


async def test_attach_detach_and_another_slot_change_nothing(decoder, images, expected):
    """An adapter that left and came back in another slot gives the same tokens."""
    first = decoder.attach("plain", images["plain"])
    assert await tokens_of(decoder, greedy("plain", PROMPTS["plain"])) == expected["plain"]
    decoder.detach("plain")
    decoder.attach("rslora", images["rslora"])
    second = decoder.attach("plain", images["plain"])
    assert second.slot != first.slot
    assert await tokens_of(decoder, greedy("plain", PROMPTS["plain"])) == expected["plain"]


async def test_a_slot_that_changes_hands_keeps_nothing_of_the_former(decoder, images, expected):
    """An adapter of two modules after one of fourteen in the same slot answers as if it had been empty."""
    first = decoder.attach("plain", images["plain"])
    decoder.detach("plain")
    assert decoder.attach("subset", images["subset"]).slot == first.slot
    assert await tokens_of(decoder, greedy("subset", PROMPTS["subset"])) == expected["subset"]


async def test_a_request_in_flight_does_not_feel_other_items_come_and_go(decoder, images, expected):
    """Attaching and detaching others between its tokens leaves an answer as it was."""
    decoder.attach("patterns", images["patterns"])
    heard = []
    async for delta in decoder.generate(greedy("patterns", PROMPTS["patterns"])):
        heard.extend(delta.tokens)
        other = "plain" if len(heard) % 2 else "rslora"
        await asyncio.to_thread(decoder.attach, other, images[other])
        await asyncio.to_thread(decoder.detach, other)
    assert heard == expected["patterns"]


async def test_a_long_prompt_is_read_in_pieces(world, images):
    """Prompts longer than a step takes give PEFT's tokens, alone, together, and beside a running answer."""
    decoder = Decoder.load(str(world.base), device="cpu", slots=1, max_rank=16, kv_nbytes=4 << 20)
    decoder.attach("plain", images["plain"])
    prompt = [(7 * index + 3) % 300 for index in range(600)]
    assert await tokens_of(decoder, greedy("plain", prompt, 8)) == world.greedy("plain", prompt, 8)
    short = asyncio.create_task(tokens_of(decoder, greedy("plain", PROMPTS["plain"])))
    streams = [asyncio.create_task(tokens_of(decoder, greedy("plain", prompt, 8))) for _ in range(3)]
    peft = world.greedy("plain", prompt, 8)
    assert [await stream for stream in streams] == [peft] * 3
    assert await short == world.greedy("plain", PROMPTS["plain"], COUNT)
    decoder.stop()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral"])
async def test_other_architectures_answer_as_peft(make_world, kind):
    """Llama, Qwen2 (biases) and Mistral (a sliding window shorter than the answer) run unchanged."""
    world = make_world(kind, "plain", "subset")
    decoder = Decoder.load(str(world.base), device="cpu", slots=2, max_rank=16, kv_nbytes=1 << 20)
    for name, path in world.adapters.items():
        decoder.attach(name, prepare(str(path), str(world.base), 16).image)
    prompt = [(11 * index + 5) % 300 for index in range(20)]
    streams = {name: tokens_of(decoder, greedy(name, prompt)) for name in world.adapters}
    answers = dict(zip(streams, await asyncio.gather(*streams.values()), strict=True))
    assert answers == {name: world.greedy(name, prompt, COUNT) for name in world.adapters}
    decoder.stop()


async def test_a_deterministic_decoder_gives_the_same_draw_in_any_company(world, images):
    """With `deterministic`, seeded samples are equal alone and in a batch of four that come and go."""
    decoder = Decoder.load(
        str(world.base), device="cpu", slots=2, max_rank=16, kv_nbytes=4 << 20, deterministic=True
    )
    decoder.attach("plain", images["plain"])
    decoder.attach("rslora", images["rslora"])

    def drawn(name, seed):
        sampling = Sampling(temperature=1.0, seed=seed, max_tokens=30)
        return tokens_of(decoder, Request(f"{name}{seed}", name, PROMPTS[name], sampling))

    asked = [("plain", 1), ("rslora", 2), ("plain", 3), ("rslora", 4)]
    alone = [await drawn(*one) for one in asked]
    leaving = decoder.generate(greedy("plain", PROMPTS["plain"]))
    await anext(leaving)
    together = [asyncio.create_task(drawn(*one)) for one in asked]
    await anext(leaving)
    await leaving.aclose()
    assert [await one for one in together] == alone
    decoder.stop()
