"""Shards as actors: up to the VRAM of an engine and down again under searches, and shards at an address."""

import asyncio
import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray

from actors.engine import CHAT_FILES, Engine, EngineSpec
from actors.errors import StaleEpoch, translate
from actors.lm.base import base_shape
from actors.lm.chat import Chat
from actors.rag.remote import Remote
from actors.shard import Shard, ShardSpec
from placement.errors import Cold, TierceError, UserError, WorldError
from placement.tiers import Tier
from tests.rag.far_server import serving

LAB = "shards"
DIM = 32
WORDS = ["war", "peace", "bread", "wine", "horse", "ship", "king", "queen", "river", "sword", "oar", "song"]
UP, RAM, SSD = Tier.VRAM, Tier.RAM, Tier.SSD


def vector_of(text: str) -> np.ndarray:
    """A direction of each text's own: equal texts, equal vectors."""
    row = np.random.default_rng(list(text.encode())).standard_normal(DIM)
    return (row / np.linalg.norm(row)).astype(np.float32)


def engine_spec(parts: Path) -> EngineSpec:
    """The tiny base on the CPU."""
    return EngineSpec("small", str(parts / "base"), "cpu", "float32", 2, 8, 8 << 20, 1, deterministic=True)


def embedder_class() -> type:
    """An embedder without a model; a class of this function, so that Ray sends its code along."""
    encode, dim = vector_of, DIM

    class Embedder:
        async def start(self):
            from actors.embedder import Embedding

            return Embedding(0, 0, started=True, dim=dim, fingerprint="words:1")

        async def encode(self, texts):
            return np.stack([encode(text) for text in texts])

    return Embedder


@pytest.fixture(scope="module")
def crew(cluster, parts):  # noqa: ARG001 -- Ray runs before anybody is hired
    """Return how an actor of this module's namespace is hired by name; all are ended with the module."""
    hired = {}

    def hire(name, made_of, *args):
        options = {"name": name, "namespace": LAB, "num_cpus": 0, "max_restarts": -1}
        hired[name] = ray.remote(made_of).options(**options).remote(*args)
        return hired[name]

    hire("embedder", embedder_class())
    ray.get(hire("engine:small", Engine, engine_spec(parts)).start.remote())
    yield hire
    for actor in hired.values():
        ray.kill(actor)


@pytest.fixture(scope="module")
def engine(crew):  # noqa: ARG001 -- it is hired with the crew
    """The engine in whose VRAM shards may lie."""
    return ray.get_actor("engine:small", namespace=LAB)


@pytest.fixture
def places(tmp_path):
    """Folders in RAM and on SSD, and one of documents."""
    ram = Path(tempfile.mkdtemp(prefix="tierce-test-", dir="/dev/shm"))
    docs = tmp_path / "docs"
    docs.mkdir()
    for word in WORDS:
        (docs / f"{word}.md").write_text(word, encoding="utf-8")
    yield ram, tmp_path, docs
    shutil.rmtree(ram, ignore_errors=True)


@pytest.fixture
def spec(request, places):
    """A shard of twelve one-word documents, at home in RAM."""
    ram, disk, docs = places
    return ShardSpec(
        name=request.node.name,
        lab=LAB,
        embedder="embedder",
        source=str(docs),
        tier=RAM,
        log_dir=str(disk / "log"),
        index_dirs={RAM: str(ram / "index"), SSD: str(disk / "index")},
        ram_folder=str(ram),
        engine="engine:small",
    )


@pytest.fixture
def hire(crew):
    """Hire shards; each lets go of its files in the end."""
    shards = []

    def start(spec):
        shards.append(crew(f"shard:{spec.name}", Shard, spec))
        return shards[-1]

    yield start
    for shard in shards:
        did(shard.leave.remote(UP, 1))
        did(shard.close.remote())


def did(ref):
    """The result of a call, or the typed error that it ended with."""
    try:
        return ray.get(ref, timeout=60)
    except ray.exceptions.RayError as error:
        raise translate(error, "the actor") from error


def ask(shard, text, k=1):
    """The texts that a shard finds for a text."""
    return [passage.text for passage in did(shard.search.remote(text, vector_of(text), k))]


def held(engine):
    """What is in the engine's VRAM of shards."""
    return did(engine.beat.remote()).held


@pytest.fixture
def asking():
    """Ask a shard for every word in turn, in a thread of its own, until told to stop; return all answers."""
    over = threading.Event()

    def ask_on(shard):
        answers = []
        while not over.is_set():
            answers += [(word, ask(shard, word)) for word in WORDS]
        return answers

    with ThreadPoolExecutor(1) as pool:

        def start(shard):
            thread = pool.submit(ask_on, shard)

            def stop():
                over.set()
                return thread.result()

            return stop

        yield start
        over.set()


def test_a_shard_goes_up_and_down_again_and_again_while_it_answers(spec, hire, engine, asking):
    """Between all tiers, five times over: each answer is right, and the engine holds it only meanwhile."""
    shard = hire(spec)
    assert did(shard.ingest.remote()).documents == len(WORDS)
    stop = asking(shard)
    for tier in (UP, SSD, UP, RAM, UP) * 5:
        did(shard.serve_from.remote(tier, 1))
        report = did(shard.beat.remote())
        assert report.tier is tier
        assert (spec.item in held(engine)) is (tier is UP)
        if tier is UP:
            assert report.nbytes == held(engine)[spec.item].nbytes == len(WORDS) * DIM * 4
            did(shard.leave.remote(RAM, 1))
            did(shard.leave.remote(SSD, 1))
        else:
            did(shard.leave.remote(UP, 1))
    answers = stop()
    assert answers
    assert [(word, found) for word, found in answers if found != [word]] == []


def test_the_engine_is_the_one_that_searches_and_it_finds_what_the_index_finds(spec, hire, engine):
    """Passages, their order and their scores are those of the index below."""
    shard = hire(spec)
    did(shard.ingest.remote())
    below = did(shard.search.remote("song", vector_of("song"), 5))
    did(shard.serve_from.remote(UP, 1))
    above = did(shard.search.remote("song", vector_of("song"), 5))
    assert held(engine)[spec.item].hits == 1
    assert [(one.text, one.document) for one in above] == [(one.text, one.document) for one in below]
    assert [one.score for one in above] == pytest.approx([one.score for one in below], abs=1e-5)


def test_a_killed_engine_takes_no_answer_with_it(spec, hire, engine, asking):
    """Searches go on from the index below, which the shard says; an order brings the vectors up again."""
    shard = hire(spec)
    did(shard.ingest.remote())
    did(shard.serve_from.remote(UP, 1))
    stop = asking(shard)
    process = psutil.Process(did(engine.beat.remote()).pid)
    process.kill()
    process.wait(timeout=10)
    give_up = time.monotonic() + 60  # a busy Ray may take a moment to say that the process is gone
    while did(shard.beat.remote()).tier is not SSD:
        assert time.monotonic() < give_up, "the shard still says that it is in VRAM"
    assert [(word, found) for word, found in stop() if found != [word]] == []
    while True:  # until Ray has made the engine anew
        try:
            ray.get(engine.start.remote(), timeout=60)
            break
        except ray.exceptions.RayError:
            continue
    assert held(engine) == {}
    did(shard.serve_from.remote(UP, 1))
    assert did(shard.beat.remote()).tier is UP
    assert ask(shard, "song") == ["song"]
    assert held(engine)[spec.item].hits == 1


def test_what_is_written_is_found_in_vram_and_what_is_gone_is_not(spec, hire, engine, places):
    """After an ingestion the engine holds the new state, and answers from it."""
    shard = hire(spec)
    did(shard.ingest.remote())
    did(shard.serve_from.remote(UP, 1))
    (places[2] / "new.md").write_text("novelty", encoding="utf-8")
    (places[2] / "song.md").unlink()
    did(shard.ingest.remote())
    before = held(engine)[spec.item].hits
    assert ask(shard, "novelty") == ["novelty"]
    assert ask(shard, "song") != ["song"]
    assert held(engine)[spec.item].hits == before + 2
    assert (did(shard.beat.remote()).tier, did(shard.beat.remote()).problem) == (UP, "")


def test_a_home_in_vram_opens_on_ssd_at_the_path_that_the_file_names(spec, hire, places):
    """Ingestion opens the index below; an order brings it up; down again it lies where it was."""
    path = places[1] / "mine"
    at_home = replace(spec, tier=UP, index_dirs={**spec.index_dirs, UP: str(path)})
    shard = hire(at_home)
    did(shard.ingest.remote())
    assert did(shard.beat.remote()).tier is SSD
    for tier in (UP, SSD):
        did(shard.serve_from.remote(tier, 1))
        assert did(shard.beat.remote()).tier is tier
        assert (path / "MANIFEST.json").exists()
    assert not (places[1] / "index").exists()


def test_a_failed_way_up_leaves_the_shard_where_it_was(spec, hire, engine, places):
    """When the index cannot go below, the vectors leave the engine again, and RAM answers on."""
    shard = hire(spec)
    did(shard.ingest.remote())
    (places[1] / "index").mkdir()
    (places[1] / "index" / "letter.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"letter\.txt"):
        did(shard.serve_from.remote(UP, 1))
    assert did(shard.beat.remote()).tier is RAM
    assert spec.item not in held(engine)
    assert ask(shard, "song") == ["song"]


def test_a_shard_without_an_engine_has_no_place_in_vram(spec, hire):
    """The order fails with a typed error, and the shard answers on."""
    shard = hire(replace(spec, engine=""))
    did(shard.ingest.remote())
    for tier in (UP, Tier.NETWORK):
        with pytest.raises(WorldError, match=f"no place in {tier}"):
            did(shard.serve_from.remote(tier, 1))
    assert ask(shard, "song") == ["song"]


def test_an_index_without_source_opens_if_its_log_is_there(spec, hire, places):
    """The documents stay when their folder is no longer named; an index alone is refused by name."""
    shard = hire(spec)
    did(shard.ingest.remote())
    did(shard.close.remote())
    again = hire(replace(spec, name=f"{spec.name}-again", source=""))
    assert did(again.ingest.remote()).documents == len(WORDS)
    assert ask(again, "song") == ["song"]
    bare = replace(spec, name=f"{spec.name}-bare", source="", log_dir=str(places[1] / "no-log"))
    with pytest.raises(UserError, match=f"an index alone, in {spec.index_dirs[RAM]}") as caught:
        did(hire(bare).ingest.remote())
    assert caught.value.code == "TRC062"


def test_a_network_shard_is_read_where_it_is(spec, hire, tmp_path):
    """It is checked, searched and reported under the tier network, and goes nowhere else."""
    with serving(tmp_path) as far:
        far.pages["/search"] = {"results": [{"text": "so", "score": 0.5}]}
        shard = hire(replace(spec, remote=Remote(far.url + "/search", api="http"), tier=Tier.NETWORK))
        assert did(shard.beat.remote()).tier is Tier.NETWORK
        did(shard.ingest.remote())
        (found,) = did(shard.search.remote("why?", None, 3))
        assert (found.text, found.shard) == ("so", spec.name)
        assert far.asked[-1].json == {"query": "why?"}
        report = did(shard.beat.remote())
        assert (report.reachable, report.problem, report.searches) == (True, "", 1)
        did(shard.serve_from.remote(Tier.NETWORK, 1))
        with pytest.raises(WorldError, match="read where it is"):
            did(shard.serve_from.remote(RAM, 1))


def test_a_network_shard_that_is_away_says_so(spec, hire, tmp_path):
    """Opening it fails with the address; what it reports has the reason; the next search may succeed."""
    with serving(tmp_path) as far:
        far.make("papers", {"size": DIM, "distance": "Cosine"})
        url = far.url
    shard = hire(replace(spec, remote=Remote(url, collection="papers"), tier=Tier.NETWORK))
    with pytest.raises(WorldError, match=url) as caught:
        did(shard.ingest.remote())
    report = did(shard.beat.remote())
    assert (report.reachable, report.problem) == (False, str(caught.value))


def test_a_collection_of_another_encoder_is_not_opened(spec, hire, tmp_path):
    """The node's embedder and the collection must have the same number of dimensions."""
    with serving(tmp_path) as far:
        far.make("papers", {"size": DIM + 1, "distance": "Cosine"})
        shard = hire(replace(spec, remote=Remote(far.url, collection="papers"), tier=Tier.NETWORK))
        with pytest.raises(UserError) as caught:
            did(shard.ingest.remote())
        assert caught.value.code == "CFG063"


@pytest.fixture
async def alone(parts):
    """An engine as a plain class."""
    engine = Engine(engine_spec(parts))
    await engine.start()
    yield engine
    await engine.close()


def offered(vectors):
    """Vectors as a shard offers them: a reference, in a list."""
    put = asyncio.get_running_loop().create_future()
    put.set_result(vectors)
    return [put]


async def test_an_engine_searches_only_the_version_that_is_asked_for(alone):
    """Another version, or none, is Cold: rows of one must not be read as rows of another."""
    matrix = np.stack([vector_of(word) for word in WORDS])
    await alone.hold("a#shard", offered(matrix), 1, 3)
    assert (await alone.search_held("a#shard", matrix[4], 1, 3))[0][0] == 4
    await alone.hold("a#shard", offered(matrix[:4]), 1, 4)
    for version in (3, 5):
        with pytest.raises(Cold):
            await alone.search_held("a#shard", matrix[4], 1, version)
    with pytest.raises(Cold):
        await alone.search_held("b#shard", matrix[4], 1, 4)
    assert (await alone.beat()).held["a#shard"].nbytes == matrix[:4].nbytes


async def test_an_engine_counts_what_it_holds_as_its_memory(alone):
    """What is held is part of the bytes that the engine has on its device, until it is released."""
    before = (await alone.beat()).memory
    matrix = np.stack([vector_of(word) for word in WORDS])
    await alone.hold("a#shard", offered(matrix), 1)
    assert (await alone.beat()).memory == before + matrix.nbytes
    await alone.release("a#shard", 1)
    await alone.release("a#shard", 1)
    report = await alone.beat()
    assert (report.held, report.memory) == ({}, before)
    assert before >= report.base_nbytes + report.kv_nbytes + 2 * report.slot_nbytes


async def test_a_release_lets_searches_end(alone):
    """A search that is under way is answered, the next one is Cold."""
    matrix = np.stack([vector_of(word) for word in WORDS])
    await alone.hold("a#shard", offered(matrix), 1)
    searches = [asyncio.create_task(alone.search_held("a#shard", row, 1)) for row in matrix]
    await asyncio.sleep(0)
    await alone.release("a#shard", 1)
    assert [found[0][0] for found in await asyncio.gather(*searches)] == list(range(len(WORDS)))
    with pytest.raises(Cold):
        await alone.search_held("a#shard", matrix[0], 1)


async def test_an_older_coordinator_neither_fills_nor_empties_vram(alone):
    """Commands of an epoch that has passed are refused."""
    matrix = np.stack([vector_of(word) for word in WORDS])
    await alone.hold("a#shard", offered(matrix), 2)
    for command in (alone.hold("b#shard", offered(matrix), 1), alone.release("a#shard", 1)):
        with pytest.raises(StaleEpoch):
            await command
    assert set((await alone.beat()).held) == {"a#shard"}


async def test_a_shard_follows_no_older_coordinator(spec):
    """What an epoch that has passed commands is refused before anything is opened."""
    shard = Shard(spec)
    shard.fence(2)
    for command in (shard.serve_from(RAM, 1), shard.leave(SSD, 1)):
        with pytest.raises(StaleEpoch):
            await command


async def test_the_anatomy_of_a_base_is_enough_to_write_prompts_elsewhere(alone, parts, tmp_path):
    """Shape and chat files equal the base's own; a Chat made of them encodes alike."""
    anatomy = await alone.anatomy()
    assert anatomy.shape == base_shape(str(parts / "base"))
    assert set(anatomy.chat) <= set(CHAT_FILES)
    for name, content in anatomy.chat.items():
        (tmp_path / name).write_bytes(content)
    said = [{"role": "user", "content": "Who goes there?"}]
    assert Chat(str(tmp_path)).encode(said) == Chat(str(parts / "base")).encode(said)


async def test_a_typed_error_of_a_shard_needs_no_ray(spec):
    """A question without a vector is refused by the plain class, before anything is opened."""
    with pytest.raises(TierceError) as caught:
        await Shard(spec).search("why?", None, 1)
    assert caught.value.code == "RAG001"
