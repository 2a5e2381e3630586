"""Slices: Python that knows nothing of it gives way to whoever decodes."""

import asyncio
import sys
import threading
import time
from contextlib import contextmanager
from itertools import chain, repeat

import pytest
from peft import LoraConfig

from actors.lm.decoder import Decoder
from actors.lm.prepare import prepare
from actors.lm.request import Request, Sampling
from actors.lm.slices import REST_S, SHARE, SLICE_S, sliced
from placement.errors import WorldError
from tests.lm.test_shadow import write

#: What one call into C, or a busy machine, may add to a slice of a shadow's load.
CALL_S = 0.05


class Thread:
    """A thread whose clock goes on by a fixed time with each look at it, and that remembers its rests."""

    def __init__(self, step_s):
        self.now_s = 0.0
        self.step_s = step_s
        self.rests = []

    def clock(self):
        self.now_s += self.step_s
        return self.now_s


def work(calls):
    """Call a function of Python that often."""

    def nothing():
        return None

    for _ in range(calls):
        nothing()


def test_a_thread_rests_between_two_slices():
    """After each slice it waits so long that it has its share of the time and no more."""
    thread = Thread(SLICE_S / 4)
    with sliced(lambda: True, thread.rests.append, thread.clock):
        work(100)
    assert len(thread.rests) > 10
    assert thread.rests == pytest.approx([SLICE_S * (1 / SHARE - 1)] * len(thread.rests), rel=0.3)


def test_nobody_waits_for_nobody():
    """While nobody decodes there is no rest."""
    thread = Thread(SLICE_S)
    with sliced(lambda: False, thread.rests.append, thread.clock):
        work(100)
    assert thread.rests == []


def test_a_call_that_took_long_is_paid_for_in_short_rests():
    """All of its rest is taken while somebody decodes."""
    thread = Thread(SLICE_S * 50)
    with sliced(lambda: True, thread.rests.append, thread.clock):
        work(1)
    assert max(thread.rests) == REST_S
    slices = sum(thread.rests) / (SLICE_S * 50 * (1 / SHARE - 1))
    assert slices == pytest.approx(max(1, round(slices)))


def test_a_rest_ends_soon_after_the_decoding():
    """A call of half a second is not slept off for two if nobody is left to give way to."""
    thread, decoding = Thread(0.5), chain(repeat(True, 3), repeat(False))
    with sliced(lambda: next(decoding), thread.rests.append, thread.clock):
        work(100)
    assert thread.rests == [REST_S] * 3


def test_what_watched_the_thread_before_watches_it_again():
    """The profiler of the thread comes back, after a fault too."""

    def before(*_):
        return None

    sys.setprofile(before)
    try:
        with pytest.raises(ZeroDivisionError), sliced(lambda: True):
            work(1 // 0)
        assert sys.getprofile() is before
    finally:
        sys.setprofile(None)


@pytest.fixture(scope="module")
def shadow(world, tmp_path_factory):
    """An adapter that no slot holds."""
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_bias=True, task_type="CAUSAL_LM")
    return write(world.base, tmp_path_factory.mktemp("shadow") / "adapter", config)


async def test_a_shadow_is_loaded_in_slices_beside_decoding(decoder, world, shadow, monkeypatch):
    """While a role decodes no stretch of the load is longer than a slice and a call, and it rests between."""
    image = prepare(str(shadow), str(world.base), 16).image
    await asyncio.to_thread(decoder.attach, "first", image)  # imports what PEFT needs
    slices, rests, began = [], [], []

    def rest(seconds):
        slices.append(time.thread_time() - began[-1])
        rests.append(seconds)
        time.sleep(0)
        began.append(time.thread_time())

    @contextmanager
    def begin(busy, _):
        began.append(time.thread_time())
        with sliced(busy, rest):
            yield
        slices.append(time.thread_time() - began[-1])

    monkeypatch.setattr("actors.lm.decoder.sliced", begin)
    hot = decoder.generate(Request("hot", None, [1, 2, 3], Sampling(max_tokens=900)))
    await anext(hot)
    await asyncio.to_thread(decoder.attach, "second", image)
    await hot.aclose()
    assert len(rests) > 5
    assert max(slices) < SLICE_S + CALL_S


async def test_a_decoder_that_is_stopped_waits_for_no_rest(world, shadow, monkeypatch):
    """A load that would rest for as long as anybody decodes ends, while somebody does."""
    decoder = Decoder.load(str(world.base), device="cpu", slots=2, max_rank=16, kv_nbytes=1 << 20)
    image, begun = prepare(str(shadow), str(world.base), 16).image, threading.Event()

    def begin(*args):
        begun.set()
        return sliced(*args)

    monkeypatch.setattr("actors.lm.decoder.sliced", begin)
    monkeypatch.setattr("actors.lm.slices.SHARE", 1e-9)
    hot = decoder.generate(Request("hot", None, [1, 2, 3], Sampling(max_tokens=900)))
    await anext(hot)
    load = asyncio.create_task(asyncio.to_thread(decoder.attach, "shadow", image))
    assert await asyncio.to_thread(begun.wait, 60)
    await asyncio.to_thread(decoder.stop)
    with pytest.raises(WorldError) as ended:
        async for _ in hot:
            pass
    assert ended.value.code == "LM007"
    with pytest.raises(WorldError):
        await load


async def test_what_a_shadow_takes_beside_its_slot_is_told(decoder, world, images, shadow):
    """Its own tensors count, as they are after the load; an adapter in a slot takes nothing beside it."""
    image = prepare(str(shadow), str(world.base), 16).image
    attached = await asyncio.to_thread(decoder.attach, "shadow", image)
    await asyncio.to_thread(decoder.attach, "plain", images["plain"])
    assert {item: use.nbytes for item, use in decoder.attached().items()} == {
        "shadow": attached.nbytes,
        "plain": 0,
    }
    assert decoder.stats().shadow_nbytes == attached.nbytes > 0
    decoder.detach("shadow")
    assert decoder.stats().shadow_nbytes == 0
