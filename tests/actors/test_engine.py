"""The Engine as a plain class, without Ray: what it does when its decoder dies under it."""

import asyncio
import os
from dataclasses import replace

import pytest

from actors.engine import Engine, EngineSpec
from actors.errors import StaleEpoch
from actors.lm.image_file import Stamp
from actors.lm.prepare import prepare
from actors.lm.request import Request, Sampling
from actors.store import Offer
from placement.errors import Busy, Cold, WorldError

ITEM = "coder@1"


@pytest.fixture
async def engine(parts):
    """An engine of the tiny base with two slots."""
    spec = EngineSpec("base", str(parts / "base"), "cpu", "float32", 2, 8, 8 << 20, 1, deterministic=False)
    engine = Engine(spec)
    await engine.start()
    yield engine
    await engine.close()


async def test_an_engine_keeps_what_it_measured_where_its_node_says(parts, tmp_path):
    """Another engine of the base remembers it, and both tell how rows of slots are multiplied."""
    spec = EngineSpec(
        "base",
        str(parts / "base"),
        "cpu",
        "float32",
        2,
        8,
        8 << 20,
        1,
        deterministic=False,
        kept=str(tmp_path),
    )
    told = []
    for engine in (Engine(spec), Engine(spec)):
        told.append((await engine.decoder()).stats())
        await engine.close()
    assert [stats.measured for stats in told] == ["measured", "remembered"]
    assert told[0].row_kernels == told[1].row_kernels
    assert set(told[0].row_kernels.values()) <= {"mm", "bmm"}


async def offer(parts):
    """An image as a Store offers it."""
    prepared = prepare(str(parts / "coder"), str(parts / "base"), 8)
    put: asyncio.Future = asyncio.get_running_loop().create_future()
    put.set_result(prepared.image)
    return Offer([put], prepared.nbytes, prepared.image_digest)


def request(tokens=8):
    """A greedy request of a fixed prompt."""
    return Request("r", ITEM, [5, 6, 7], Sampling(max_tokens=tokens))


async def answer(engine):
    """The tokens of one answer."""
    return [token async for delta in engine.generate(request()) for token in delta.tokens]


async def test_a_decoder_that_died_is_loaded_again_and_its_slots_are_told_as_empty(engine, parts):
    """After the death of the decode thread the engine says that it holds nothing, starts anew and serves."""
    await engine.attach(ITEM, await offer(parts), 1, verify=True)
    before = await answer(engine)
    dead = await engine.decoder()

    def broken(*_args, **_kwargs):
        raise RuntimeError("out of luck")

    dead._model.net.register_forward_pre_hook(broken)  # noqa: SLF001 -- a fault in the middle of a step
    with pytest.raises(WorldError, match="out of luck"):
        await answer(engine)
    report = await engine.beat()
    assert (report.started, report.slots) == (False, {})
    with pytest.raises(Cold):
        await answer(engine)
    assert (await engine.beat()).started
    await engine.attach(ITEM, await offer(parts), 1, verify=True)
    assert await answer(engine) == before


async def test_an_image_that_arrives_damaged_is_not_attached(engine, parts):
    """Bytes that do not have the offered digest are refused, and no slot is taken."""
    good = await offer(parts)
    with pytest.raises(WorldError, match="damaged"):
        await engine.attach(ITEM, Offer(good.refs, good.nbytes, "0" * 64), 1, verify=True)
    assert (await engine.beat()).slots == {}


async def test_detaching_waits_for_running_answers_and_gives_up_at_its_deadline(engine, parts):
    """An item that still answers serves on, and the error counts the answers."""
    await engine.attach(ITEM, await offer(parts), 1, verify=True)
    running = engine.generate(request(tokens=400))
    await anext(running)
    with pytest.raises(Busy, match="1 requests"):
        await engine.detach(ITEM, 1, drain_s=0.0)
    assert (await engine.beat()).slots[ITEM].leases == 1
    await running.aclose()
    await engine.detach(ITEM, 1, drain_s=30.0)
    assert (await engine.beat()).slots == {}


async def test_an_older_coordinator_is_refused(engine, parts):
    """A command with an epoch below the highest one seen does nothing."""
    await engine.attach(ITEM, await offer(parts), 2, verify=True)
    with pytest.raises(StaleEpoch):
        await engine.detach(ITEM, 1, drain_s=0.0)
    assert ITEM in (await engine.beat()).slots


async def test_a_drain_of_an_older_coordinator_ends_when_a_newer_one_wants_the_item(engine, parts):
    """The item is told as closing; attached by a newer coordinator it is open, and the old drain stops."""
    await engine.attach(ITEM, await offer(parts), 1, verify=True)
    running = engine.generate(request(tokens=400))
    await anext(running)
    drain = asyncio.create_task(engine.detach(ITEM, 1, drain_s=60.0))
    for _ in range(1_000):
        await asyncio.sleep(0)
        if (await engine.beat()).closing:
            break
    assert (await engine.beat()).closing == {ITEM}
    await engine.attach(ITEM, await offer(parts), 2, verify=True)
    with pytest.raises(StaleEpoch):
        await drain
    assert (await engine.beat()).closing == frozenset()
    assert await answer(engine)
    await running.aclose()


def offered(folder, parts, **changes):
    """An image as a Store on the same node offers it: a file."""
    prepared = prepare(str(parts / "coder"), str(parts / "base"), 8)
    path = folder / "image"
    prepared.image.tofile(path)
    whole = Offer([], prepared.nbytes, prepared.image_digest, "", str(path), Stamp.of(path))
    return replace(whole, **changes)


async def test_a_file_serves_as_bytes_do(engine, parts, tmp_path):
    """The answer is the same, and the proof that was made is handed on."""
    await engine.attach(ITEM, await offer(parts), 1, verify=True)
    before = await answer(engine)
    await engine.detach(ITEM, 1, drain_s=30.0)
    seated = await engine.attach(ITEM, offered(tmp_path, parts), 1, verify=False)
    assert seated.proof == (await engine.decoder()).key
    assert await answer(engine) == before
    assert (await engine.attach(ITEM, offered(tmp_path, parts), 1, verify=False)).proof == ""


async def test_what_was_proven_before_is_not_probed(engine, parts, tmp_path, monkeypatch):
    """A key that the offer carries saves the probe; another engine's does not."""
    decoder, probed = await engine.decoder(), []
    monkeypatch.setattr("actors.lm.decoder.prove", lambda *_: probed.append(1))
    for item, keys in ((ITEM, (decoder.key, "another")), ("coder@2", ("another",))):
        seated = await engine.attach(item, offered(tmp_path, parts, proven=keys), 1, verify=False)
        assert bool(seated.proof) == bool(probed)
    assert probed == [1]


async def test_a_file_that_is_no_longer_what_was_offered_is_not_attached(engine, parts, tmp_path):
    """One that was rewritten or removed after the offer is a typed error, and no slot is taken."""
    good = offered(tmp_path, parts)
    (tmp_path / "image").write_bytes(bytes(good.nbytes))
    with pytest.raises(WorldError, match="written again"):
        await engine.attach(ITEM, good, 1, verify=False)
    (tmp_path / "image").unlink()
    with pytest.raises(WorldError, match="gone"):
        await engine.attach(ITEM, good, 1, verify=False)
    assert (await engine.beat()).slots == {}


async def test_a_process_whose_decoder_hangs_ends(engine, monkeypatch, capsys):
    """It says why, and Ray starts another: nothing else frees a thread that hangs."""
    ended = asyncio.get_running_loop().create_future()
    monkeypatch.setattr("actors.engine.os._exit", ended.set_result)
    decoder = await engine.decoder()
    await engine.beat()
    assert not ended.done()
    monkeypatch.setattr(type(decoder), "stuck", property(lambda _: True), raising=False)
    for _ in range(3):
        await engine.beat()
    assert await asyncio.wait_for(ended, 30) == os.EX_SOFTWARE
    assert capsys.readouterr().err.count("hangs") == 1
