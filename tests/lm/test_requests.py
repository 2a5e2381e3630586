"""The life of a request: one end each, whether it finishes, is cancelled, is late or meets a dead engine."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from actors.lm.adapter import base_shape, read_adapter
from actors.lm.decoder import Decoder
from actors.lm.header import AdapterError
from actors.lm.image import build_image, read_image
from actors.lm.prepare import prepare
from actors.lm.request import Request, Sampling
from placement.errors import Busy, Cold, TierceError, UserError, WorldError

PROMPT = [5, 9, 100, 41]


def ask(item="plain", count=20, deadline_s=None, tokens=None, **sampling):
    """A greedy request that no random model ends early."""
    return Request("r", item, tokens or PROMPT, Sampling(max_tokens=count, **sampling), deadline_s)


async def heard(decoder, request):
    """Every piece of an answer."""
    return [delta async for delta in decoder.generate(request)]


def broken(*_args, **_kwargs):
    """A fault."""
    raise RuntimeError("out of luck")


async def settled(decoder):
    """Wait until the decode thread has let go of everything, a step of the base at a time."""
    while any(use.leases for use in decoder.attached().values()) or decoder.stats().kv_rows_used:
        await heard(decoder, ask(None, 1))
        await asyncio.sleep(0)


@pytest.fixture
def plain(decoder, images):
    """The decoder with one adapter attached."""
    decoder.attach("plain", images["plain"])
    return decoder


@pytest.fixture
def own(world, images):
    """A decoder for a test that ends it, with room for about 60 tokens per request in flight."""
    decoder = Decoder.load(str(world.base), device="cpu", slots=2, max_rank=16, kv_nbytes=64 << 10)
    decoder.attach("plain", images["plain"])
    yield decoder
    decoder.stop()


async def test_an_answer_ends_exactly_once(plain):
    """The last piece, and only the last, carries how it finished; every token was told once."""
    pieces = await heard(plain, ask(count=12))
    assert [piece.finish for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert sum(len(piece.tokens) for piece in pieces) == 12


async def test_the_end_token_ends_an_answer(plain):
    """An answer that draws the end token stops there, with finish `stop` and no text for it."""
    drawn = (heard(plain, ask(count=40, temperature=3.0, seed=seed)) for seed in range(40))
    answers = await asyncio.gather(*drawn)
    stopped = [answer for answer in answers if answer[-1].finish == "stop"]
    assert stopped
    assert all(answer[-1].tokens == (2,) for answer in stopped)
    assert not any("<|im_end|>" in piece.text for answer in answers for piece in answer)


async def test_a_stop_text_ends_an_answer_before_it(plain):
    """Nothing of the stop text, nor after it, is told, though it may span tokens."""
    whole = "".join(piece.text for piece in await heard(plain, ask(count=20)))
    stop = whole[5:8]
    pieces = await heard(plain, ask(count=20, stop=(stop,)))
    assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish == "stop"


async def test_seeded_draws_repeat(plain):
    """The same seed gives the same answer, another seed another one."""
    first, again, other = [
        [token for piece in await heard(plain, ask(temperature=1.0, seed=seed)) for token in piece.tokens]
        for seed in (1, 1, 2)
    ]
    assert first == again
    assert first != other


async def test_an_item_that_is_not_attached_is_cold(decoder):
    """Asking for an absent item raises Cold before anything is decoded; the base does not answer for it."""
    with pytest.raises(Cold) as cold:
        await heard(decoder, ask("nobody"))
    assert cold.value.code == "TRC010"


async def test_a_closed_item_takes_nobody_new_and_finishes_who_is_there(plain):
    """After close a new request is Cold, the one in flight goes on, and reopen lets requests in again."""
    stream = plain.generate(ask(count=10))
    count = len((await anext(stream)).tokens)
    plain.close("plain")
    with pytest.raises(Cold):
        await heard(plain, ask())
    async for piece in stream:
        count += len(piece.tokens)
    assert count == 10
    plain.reopen("plain")
    assert len(await heard(plain, ask(count=3))) == 3


async def test_an_item_in_use_cannot_be_detached(plain):
    """Detach raises Busy while a request is in flight, and works once it has ended."""
    stream = plain.generate(ask(count=200))
    await anext(stream)
    with pytest.raises(Busy, match="1 request"):
        plain.detach("plain")
    await stream.aclose()
    await settled(plain)
    plain.detach("plain")
    assert plain.attached() == {}


async def test_closing_the_stream_frees_everything_within_a_step(plain):
    """A cancelled request leaves no lease, no KV row and no further step behind."""
    stream = plain.generate(ask(count=240))
    await anext(stream)
    before = plain.stats().tokens
    await stream.aclose()
    await heard(plain, ask(None, 2))
    assert plain.attached()["plain"].leases == 0
    assert plain.stats().kv_rows_used == 0
    assert plain.stats().tokens - before < 20


async def test_a_caller_that_vanishes_is_a_cancelled_request(plain):
    """A task that is cancelled in the middle of an answer frees its lease."""
    started = asyncio.Event()

    async def caller():
        async for _ in plain.generate(ask(count=240)):
            started.set()

    task = asyncio.create_task(caller())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled(plain)
    assert plain.attached()["plain"].leases == 0


async def test_a_loop_that_closes_takes_its_requests_along(plain):
    """A request whose event loop is gone does not hold its lease nor disturb others."""

    def abandon():
        loop = asyncio.new_event_loop()
        stream = plain.generate(ask(count=240))
        loop.run_until_complete(anext(stream))
        loop.close()
        return stream

    stream = await asyncio.to_thread(abandon)
    await settled(plain)
    assert plain.attached()["plain"].leases == 0
    del stream
    gc.collect()


async def test_the_deadline_ends_a_request_with_a_typed_error(plain):
    """A request that outlives its deadline gets LM003, once, and frees what it held."""
    with pytest.raises(WorldError, match=r"deadline of 0\.02 s") as late:
        await heard(plain, ask(count=240, deadline_s=0.02))
    assert late.value.code == "LM003"
    await settled(plain)


async def test_a_full_cache_makes_requests_wait(own):
    """Requests that do not fit beside each other are answered one after another, all of them whole."""
    answers = await asyncio.gather(*(heard(own, ask(count=50)) for _ in range(5)))
    assert all(sum(len(piece.tokens) for piece in answer) == 50 for answer in answers)
    assert len({tuple(token for piece in answer for token in piece.tokens) for answer in answers}) == 1


async def test_a_request_that_waits_for_room_has_its_deadline_too(own):
    """A request that never got KV rows before its deadline ends with LM003."""
    first = own.generate(ask(count=100))
    await anext(first)
    second = asyncio.create_task(heard(own, ask(count=100, deadline_s=0.0)))
    with pytest.raises(WorldError, match="after 0 tokens") as late:
        await second
    assert late.value.code == "LM003"
    await first.aclose()


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (ask(count=1100), "LM002"),
        (ask(None, 30, tokens=[7] * 1000), "LM002"),
        (ask(tokens=[5, 100_000]), "LM005"),
        (ask(tokens=[-1]), "LM005"),
        (Request("r", "plain", []), "LM005"),
    ],
)
async def test_a_request_that_cannot_be_served_is_refused_at_once(plain, request_, code):
    """Too long for the context, outside the vocabulary or empty: a UserError, and no lease is left."""
    with pytest.raises(UserError) as refused:
        await heard(plain, request_)
    assert refused.value.code == code
    assert plain.attached()["plain"].leases == 0


async def test_a_request_longer_than_the_cache_is_refused(own):
    """What could never get its KV rows is LM002, naming the cache, instead of waiting for ever."""
    with pytest.raises(UserError, match="kv_cache") as refused:
        await heard(own, ask(count=240))
    assert refused.value.code == "LM002"


async def test_use_is_counted(plain, images):
    """Leases, hits and activations say what happened; idleness counts from the last answer."""
    plain.attach("rslora", images["rslora"])
    stream = plain.generate(ask(count=200))
    await anext(stream)
    uses = plain.attached()
    assert (uses["plain"].leases, uses["plain"].idle_s) == (1, 0.0)
    assert uses["rslora"].leases == 0
    assert uses["rslora"].idle_s > 0
    await stream.aclose()
    await settled(plain)
    hits = plain.attached()["plain"].hits
    activations = plain.attached()["plain"].activations
    await heard(plain, ask(count=1))
    plain.detach("plain")
    plain.attach("plain", images["plain"])
    assert plain.attached()["plain"].hits == hits + 1
    assert plain.attached()["plain"].activations == activations + 1


async def test_attach_again_is_no_second_copy(plain, images):
    """Attaching what is attached returns its slot, copies nothing, and opens it if it was closed."""
    slot = plain.attach("plain", images["plain"])
    plain.close("plain")
    again = plain.attach("plain", images["plain"])
    assert (again.slot, again.nbytes) == (slot.slot, 0)
    assert await heard(plain, ask(count=2))


def test_a_fifth_adapter_finds_no_seat(decoder, images):
    """With every slot taken attach raises LM001 and names who sits there."""
    for index in range(4):
        decoder.attach(f"plain@{index}", images["plain"])
    with pytest.raises(WorldError, match="plain@0, plain@1") as refused:
        decoder.attach("rslora", images["rslora"])
    assert refused.value.code == "LM001"


def without_effect(world):
    """The image of an adapter whose B is zero, as an untrained one has."""
    base = base_shape(str(world.base))
    image = build_image(read_adapter(str(world.adapters["plain"]), base, max_rank=16))
    content = read_image(image)
    for patch in content.layout:
        content.slot[patch.b_offset : patch.b_offset + patch.rank * patch.out_features] = 0
    return image


def test_an_adapter_without_effect_is_refused(decoder, world, images):
    """An adapter whose answers would be the base's gives ADP037, and its slot is free again."""
    with pytest.raises(AdapterError) as refused:
        decoder.attach("untrained", without_effect(world))
    assert refused.value.code == "ADP037"
    assert decoder.attached() == {}
    for index in range(4):
        decoder.attach(f"plain@{index}", images["plain"])


def test_an_adapter_that_overflows_is_refused(decoder, images):
    """Finite weights that drive the model to NaN or Inf give ADP013."""
    image = images["plain"].copy()
    read_image(image).slot[:] *= 1e25
    with pytest.raises(AdapterError) as refused:
        decoder.attach("wild", image)
    assert refused.value.code == "ADP013"
    assert decoder.attached() == {}


def test_an_image_of_another_base_is_refused(decoder, make_world):
    """An image that was checked against another base gives ADP024, whatever its shapes."""
    other = make_world("llama", "plain")
    with pytest.raises(AdapterError) as refused:
        decoder.attach("plain", prepare(str(other.adapters["plain"]), str(other.base), 16).image)
    assert refused.value.code == "ADP024"


async def test_stop_ends_everybody_with_an_error(own):
    """Requests in flight and waiting get LM007 when the decoder stops, and so does every later call."""
    streams = [asyncio.create_task(heard(own, ask(count=50))) for _ in range(3)]
    running = own.generate(ask(count=50))
    await anext(running)
    await asyncio.to_thread(own.stop)
    ends = await asyncio.gather(*streams, heard(own, ask()), return_exceptions=True)
    assert [end.code for end in ends if isinstance(end, TierceError)] == ["LM007"] * 4
    assert own.attached()["plain"].leases == 0
    await running.aclose()


async def test_a_dead_decode_thread_answers_everybody(own, images):
    """If a step raises, requests and later calls get LM007 with the cause: nobody waits for ever."""
    running = own.generate(ask(count=100))
    await anext(running)

    handle = own._model.net.register_forward_pre_hook(broken)  # noqa: SLF001 -- a fault in the middle of a step
    with pytest.raises(WorldError, match="out of luck") as died:
        async for _ in running:
            pass
    assert died.value.code == "LM007"
    assert isinstance(died.value.__cause__, RuntimeError)
    with pytest.raises(WorldError, match="out of luck"):
        await heard(own, ask())
    with pytest.raises(WorldError, match="out of luck"):
        await asyncio.to_thread(own.attach, "rslora", images["rslora"])
    handle.remove()


async def test_what_ended_before_a_step_died_is_still_told(own, monkeypatch):
    """A request that runs out of its deadline in the turn whose step raises gets its own LM003."""
    steps = own._steps  # noqa: SLF001 -- a fault in a certain turn
    sweep = steps.sweep

    def sweep_late(now_s):
        together = len(steps.schedule.running) == 2
        if together:
            monkeypatch.setattr(steps, "step", broken)
        return sweep(now_s + 1000 if together else now_s)

    monkeypatch.setattr(steps, "sweep", sweep_late)
    answers = [heard(own, ask(count=50)), heard(own, ask(count=50, deadline_s=500))]
    async with asyncio.timeout(20):
        ends = await asyncio.gather(*answers, return_exceptions=True)
    assert [end.code for end in ends] == ["LM007", "LM003"]
    assert own.attached()["plain"].leases == 0


async def test_every_token_of_a_decoder_that_dies_is_told(own):
    """What was computed before the step that raises reaches whoever waits, and then the error."""
    steps = own._steps  # noqa: SLF001 -- a fault in the middle of a step
    model = steps._model  # noqa: SLF001

    def forward(parts, *, interlude=None):
        if interlude is not None:
            raise RuntimeError("out of luck")
        return model.forward(parts, interlude=interlude)

    first = own.generate(ask(count=50))
    told = [await anext(first)]
    steps._model = SimpleNamespace(forward=forward, probe=broken)  # noqa: SLF001
    second = asyncio.create_task(heard(own, ask(count=5)))

    async def listen():
        async for piece in first:
            told.append(piece)  # noqa: PERF401 -- it ends with an error

    with pytest.raises(WorldError, match="out of luck"):
        await listen()
    with pytest.raises(WorldError, match="out of luck"):
        await second
    assert sum(len(piece.tokens) for piece in told) == own.stats().tokens


async def test_an_adapter_whose_forward_raises_ends_alone(own, images):
    """LM022 for the requests of that adapter; another one and the decoder go on as if nothing had been."""
    own.attach("rslora", images["rslora"])
    slot = own._seats.lease("rslora").slot  # noqa: SLF001 -- to know whose forward it is
    model = own._model  # noqa: SLF001

    def forward(parts, *, interlude=None):
        if slot in {part.slot for part in parts}:
            raise RuntimeError("out of luck")
        return model.forward(parts, interlude=interlude)

    alone = [piece.tokens for piece in await heard(own, ask(count=12))]
    own._steps._model = SimpleNamespace(forward=forward, probe=model.probe)  # noqa: SLF001
    good = asyncio.create_task(heard(own, ask(count=12)))
    with pytest.raises(WorldError, match="out of luck") as blamed:
        await heard(own, ask("rslora", 12))
    assert blamed.value.code == "LM022"
    assert [piece.tokens for piece in await good] == alone
    assert own.alive


async def test_a_flood_is_refused_at_once_and_only_its_own_item(plain, images, monkeypatch):
    """With too many of an item waiting the next one is LM020 before it waits; another item is let in."""
    monkeypatch.setattr("actors.lm.loop.MAX_WAITING", 3)
    plain.attach("rslora", images["rslora"])
    first = plain.generate(ask(count=900))
    await anext(first)
    others = [asyncio.create_task(heard(plain, ask(count=900))) for _ in range(20)]
    ends = []
    while not ends:
        await asyncio.sleep(0)
        ends = [task for task in others if task.done()]
    assert {task.exception().code for task in ends} == {"LM020"}
    assert await heard(plain, ask("rslora", 2))
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await first.aclose()
    await settled(plain)


async def test_a_decoder_that_hangs_tells_everybody_once(world, images):
    """When a step does not come back the watchdog ends every request and call with LM021."""
    decoder = Decoder.load(str(world.base), device="cpu", slots=2, max_rank=16, kv_nbytes=64 << 10)
    decoder.attach("plain", images["plain"])
    running = decoder.generate(ask(count=100))
    await anext(running)
    stuck, release = threading.Event(), threading.Event()

    def hang(*_):
        stuck.set()
        release.wait()

    handle = decoder._model.net.register_forward_pre_hook(hang)  # noqa: SLF001 -- a step that does not end
    await asyncio.to_thread(stuck.wait)
    waiting = asyncio.create_task(heard(decoder, ask(count=5)))
    call = asyncio.create_task(asyncio.to_thread(decoder.attach, "rslora", images["rslora"]))
    watchdog = decoder._loop._watchdog  # noqa: SLF001 -- its minute passes at once
    while decoder.alive:
        await asyncio.to_thread(watchdog.look, 2.0)
    assert decoder.stuck
    with pytest.raises(WorldError, match=r"not moved for .* s, in .*test_requests.py:\d+ hang") as ended:
        async for _ in running:
            pass
    assert ended.value.code == "LM021"
    for end in await asyncio.gather(waiting, call, heard(decoder, ask()), return_exceptions=True):
        assert end.code == "LM021"
    release.set()
    handle.remove()
    decoder.stop()


async def test_n_answers_come_in_one_stream(plain):
    """Each of n answers has its index, its own draws and its own end; the stream ends after the last."""
    pieces = await heard(plain, ask(count=12, temperature=1.0, seed=3, n=3))
    answers = [[piece for piece in pieces if piece.index == index] for index in range(3)]
    assert [[bool(piece.finish) for piece in answer] for answer in answers] == [[False] * 11 + [True]] * 3
    assert len({tuple(piece.tokens for piece in answer) for answer in answers}) == 3
    single = await heard(plain, ask(count=12, temperature=1.0, seed=3))
    assert [piece.tokens for piece in single] == [piece.tokens for piece in answers[0]]
    assert plain.attached()["plain"].leases == 0


async def test_stop_tokens_end_an_answer_and_the_end_token_may_be_ignored(plain):
    """A stop token ends an answer and gives no text; with ignore_eos the model's end token does not."""
    tokens = [piece.tokens[0] for piece in await heard(plain, ask(count=10))]
    pieces = await heard(plain, ask(count=10, stop_tokens=(tokens[4],)))
    assert [piece.tokens[0] for piece in pieces] == tokens[: tokens.index(tokens[4]) + 1]
    assert pieces[-1].finish == "stop"
    drawn = (heard(plain, ask(count=40, temperature=3.0, seed=s, ignore_eos=True)) for s in range(40))
    answers = await asyncio.gather(*drawn)
    assert {answer[-1].finish for answer in answers} == {"length"}


async def test_stats_tell_what_goes_on(own):
    """Who waits is told by item, what runs and what it holds beside it, and how long the steps took."""
    first = own.generate(ask(count=100))
    await anext(first)
    second = asyncio.create_task(heard(own, ask(count=100)))
    while not own.stats().waiting:
        await anext(first)
    stats = own.stats()
    assert (stats.running, stats.waiting, stats.seats) == (1, {"plain": 1}, {"plain": "open"})
    assert stats.kv_rows_used == len(PROMPT) + 100
    assert 0 < stats.decode_p50_s <= stats.decode_p99_s
    assert stats.tokens_per_s > 0
    await first.aclose()
    await second


async def test_a_request_that_cannot_begin_holds_no_lease(plain, monkeypatch):
    """If the dice of a request cannot be made, its slot is as free as before."""
    monkeypatch.setattr("actors.lm.decoder.Drawing.of", broken)
    with pytest.raises(RuntimeError):
        await heard(plain, ask())
    assert plain.attached()["plain"].leases == 0


async def test_a_tiny_temperature_does_not_end_the_engine(plain):
    """A temperature of next to nothing answers as greedy does, and the decoder lives on."""
    cold, greedy = [
        [token for piece in await heard(plain, ask(temperature=temperature)) for token in piece.tokens]
        for temperature in (1e-39, 0.0)
    ]
    assert cold == greedy
    assert plain.alive


@pytest.mark.parametrize("deadline_s", ["5", True])
def test_a_deadline_that_is_no_number_is_refused(deadline_s):
    """What cannot be compared with a clock is LM006 before it reaches the decode thread."""
    with pytest.raises(UserError, match="deadline_s") as refused:
        ask(deadline_s=deadline_s)
    assert refused.value.code == "LM006"


async def test_room_is_what_a_request_may_have(plain, own):
    """Prompt and answer of `room` tokens are taken, one more is refused, by context or by cache."""
    assert plain.room == plain.context == 1024
    assert own.room < own.context
    assert await heard(own, ask(count=own.room - len(PROMPT)))
    with pytest.raises(UserError, match=f"{own.room} of the kv_cache"):
        await heard(own, ask(count=own.room - len(PROMPT) + 1))


def test_attaching_from_many_threads_at_once_is_one_activation(decoder, images):
    """Eight threads that attach the same item get the same slot; it is copied once."""
    barrier = threading.Barrier(8)

    def attach(_):
        barrier.wait()
        return decoder.attach("plain@many", images["plain"])

    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(attach, range(8)))
    assert {attached.slot for attached in done} == {done[0].slot}
    assert sorted(attached.nbytes > 0 for attached in done) == [False] * 7 + [True]
    assert decoder.attached()["plain@many"].activations == 1


async def test_a_proof_does_not_wait_for_a_prompt(plain, images):
    """An adapter that comes while a prompt is read is proven between two layers of it, not after it."""
    model = plain._model  # noqa: SLF001 -- to stand between two layers
    there, go_on, proven = threading.Event(), threading.Event(), []
    forward = model.forward

    def held(parts, *, interlude=None):
        def between():
            there.set()
            go_on.wait()
            interlude()
            proven.append(not plain._loop._calls)  # noqa: SLF001

        return forward(parts, interlude=between if interlude else None)

    plain._steps._model = SimpleNamespace(forward=held, probe=model.probe)  # noqa: SLF001
    try:
        answer = asyncio.create_task(heard(plain, ask(count=2, tokens=[7] * 200)))
        await asyncio.to_thread(there.wait)
        coming = asyncio.create_task(asyncio.to_thread(plain.attach, "rslora@new", images["rslora"]))
        while not plain._loop._calls:  # noqa: ASYNC110, SLF001 -- its copy is done, its proof is asked for
            await asyncio.sleep(0)
        go_on.set()
        await coming
        assert len(await answer) == 2
    finally:
        go_on.set()
        plain._steps._model = model  # noqa: SLF001
    assert proven[0]
    assert plain.stats().seats["rslora@new"] == "open"


def test_an_item_does_not_wait_for_the_copy_of_another(decoder, images, monkeypatch):
    """While one adapter is being copied another that is there is opened, and a third is detached."""
    decoder.attach("plain", images["plain"])
    decoder.attach("rslora", images["rslora"])
    slots = decoder._model.slots  # noqa: SLF001 -- to hold a copy in its middle
    there, go_on, fill = threading.Event(), threading.Event(), slots.fill

    def held(*arguments):
        there.set()
        go_on.wait()
        fill(*arguments)

    monkeypatch.setattr(slots, "fill", held)
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(decoder.attach, "subset", images["subset"])
        there.wait()
        assert decoder.attach("plain", images["plain"]).nbytes == 0
        decoder.detach("rslora")
        assert decoder.stats().seats == {"plain": "open", "subset": "filling"}
        go_on.set()
        assert coming.result().nbytes > 0
