"""Homes beyond a disk of this machine: adapters at URLs, shards at servers, an index in VRAM."""

import shutil
import uuid
from pathlib import Path

import pytest
from qdrant_client import QdrantClient, models

from actors.rag.encoder import Encoder
from placement.errors import TierceError, UserError
from tests.lm.host import serving as hosting
from tests.rag.far_server import serving
from tests.waiting import until

pytestmark = pytest.mark.ray

FILE = """
lab: beyond
nodes:
  desk: {{vram: 64MiB, ram: 64MiB, ssd: {{path: {root}/ssd, budget: 1GiB}}}}
bases:
  small: {{model: {parts}/base, device: cpu, slots: 3, max_rank: 8, kv_cache: 8MiB}}
roles:
  far:
    {{lora_path: "{url}/critic/", base: small, location: network, rag: [library], {says}}}
  lost: {{lora_path: "{url}/nothing/", base: small, location: network, {says}}}
  fetched: {{lora_path: "{url}/coder/", base: small, location: RAM, rag: [papers], {says}}}
  fleeting: {{lora_path: {shm}, location: SSD, rag: [war], {says}}}
rag:
  war: {{location: VRAM, source: {parts}/war}}
  library:
    {{location: network, api: http, url: "{far}/search", map: {{query: q, results: hits, text: body}}}}
  papers: {{location: network, url: "{far}", collection: papers, map: {{document: title}}}}
"""
SAYS = "generation: {temperature: 0, max_tokens: 12}"


@pytest.fixture(scope="module")
def host(parts):
    """A web server with two adapters."""
    files = {
        f"/{name}/{file.name}": file.read_bytes()
        for name, folder in (("critic", "artist"), ("coder", "coder"))
        for file in (parts / folder).iterdir()
    }
    with hosting(files=files) as host:
        yield host


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    """A search API, and a Qdrant server with a collection of our encoder's vectors."""
    with serving(tmp_path_factory.mktemp("far")) as server:
        server.pages["/search"] = {"hits": [{"body": "The library says: owls.", "score": 0.9}]}
        encoder = Encoder.load("")
        client = QdrantClient(url=server.url, check_compatibility=False)
        size = models.VectorParams(size=encoder.dim, distance=models.Distance.COSINE)
        client.create_collection("papers", vectors_config=size)
        text = "Bread is baked before sunrise."
        vector = encoder.encode([text])[0].tolist()
        point = models.PointStruct(
            id=str(uuid.uuid4()), vector=vector, payload={"text": text, "title": "p.md"}
        )
        client.upsert("papers", [point], wait=True)
        client.close()
        yield server


@pytest.fixture(scope="module")
def shm(parts):
    """The directory of an adapter in memory, where nothing lasts."""
    folder = Path(f"/dev/shm/tierce-test-{uuid.uuid4().hex[:8]}")  # noqa: S108 -- memory is the point
    shutil.copytree(parts / "philosopher", folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def lab(make_lab, folder_of, parts, host, far, shm):
    """A lab whose parts lie beyond a disk of this machine."""
    root = folder_of("beyond")
    text = FILE.format(root=root, parts=parts, url=host.url, far=far.url, shm=shm, says=SAYS)
    return make_lab("beyond", text=text)


def test_an_adapter_at_a_url_is_fetched_when_it_is_first_wanted(lab, host):
    """Nothing is fetched at `up`; the first ask fetches, the version is recorded, and a restart knows it."""
    assert lab.ps().thing("far").tier == "network"
    assert not host.asked("/critic/adapter_model.safetensors", "Range")
    answer = lab.ask("far", "What do owls say?")
    assert answer.version.startswith("far@")
    assert host.asked("/critic/adapter_model.safetensors", "Range")
    thing = lab.ps().thing("far")
    assert (thing.home, thing.version) == ("network", answer.version.partition("@")[2])
    assert lab.ask("far", "Again?").version == answer.version


def test_what_rests_on_the_network_leaves_nothing_here_and_comes_back(lab, host):
    """`unload` drops all local copies; the next ask fetches again and says the same."""
    words = lab.ask("far", "What do owls say?")
    lab.unload("far")
    until(lambda: lab.ps().thing("far").copies == ("network ready",))
    before = len(host.asked("/critic/adapter_model.safetensors", "Range"))
    again = lab.ask("far", "What do owls say?")
    assert (again.text, again.version) == (words.text, words.version)
    assert len(host.asked("/critic/adapter_model.safetensors", "Range")) > before


def test_an_address_that_gives_another_version_is_refused(lab, host, parts):
    """After the files at the address changed, the new ones do not pass for the old version."""
    lab.ask("far", "What do owls say?")
    lab.unload("far")
    until(lambda: lab.ps().thing("far").copies == ("network ready",))
    kept = dict(host.files)
    other = (parts / "philosopher" / "adapter_model.safetensors").read_bytes()
    host.files["/critic/adapter_model.safetensors"] = other
    with pytest.raises(TierceError, match="ADP034"):
        lab.ask("far", "What do owls say?")
    host.files.update(kept)
    lab.remove_role("far")
    lab.add_role("far", lora_path=f"{host.url}/critic/", base="small", location="network", rag=["library"])
    assert lab.ask("far", "And now?", temperature=0, max_tokens=4).text


def test_an_address_that_has_nothing_is_a_typed_error_of_the_ask(lab):
    """A role whose address is wrong says so to whoever asks; the others are not touched by it."""
    with pytest.raises(UserError) as missing:
        lab.ask("lost", "Hello?")
    assert missing.value.code == "STO010"


def test_a_url_at_home_in_ram_is_fetched_at_up_and_cites_a_qdrant_server(lab):
    """`location` says where it rests, wherever it came from; its shard is a collection of a server."""
    assert lab.ps().thing("fetched").home == "desk:RAM"
    answer = lab.ask("fetched", "When is bread baked?")
    assert [citation.document for citation in answer.citations] == ["p.md"]
    assert lab.ps().thing("papers").phase == "ready"


def test_a_search_api_is_asked_with_the_words(lab, far):
    """The question goes to the API in the field that the file names, and the answer cites what came back."""
    answer = lab.ask("far", "What do owls say?", temperature=0, max_tokens=4)
    assert answer.citations[0].shard == "library"
    asked = [each for each in far.asked if each.path == "/search"]
    assert asked[-1].json["q"] == "What do owls say?"


def test_an_adapter_in_memory_is_copied_to_the_disk_first(lab, shm, folder_of):
    """A source on tmpfs is kept on the SSD tier: the role survives its loss, and that of its image."""
    assert "copied" in " ".join(line.text for line in lab.story("fleeting"))
    words = lab.ask("fleeting", "Who?").text
    shutil.rmtree(shm)
    lab.unload("fleeting")
    adapters = folder_of("beyond") / "ssd" / "adapters"
    for image in adapters.glob("fleeting@*.safetensors"):
        image.unlink()
    until(lambda: list(adapters.glob("fleeting@*.safetensors")))
    assert lab.ask("fleeting", "Who?").text == words


def test_a_shard_in_vram_answers_from_the_engine_and_moves_down_and_up(lab):
    """Its vectors lie in the engine's place, counted there; moved to RAM and back it finds the same."""
    thing = lab.ps().thing("war")
    assert (thing.home, thing.tier) == ("desk:VRAM(cpu)", "VRAM(cpu)")
    found = cited(lab)
    assert lab.move("war", to="RAM").tier == "RAM"
    assert cited(lab) == found
    assert lab.move("war", to="VRAM").tier == "VRAM(cpu)"
    assert cited(lab) == found


def cited(lab):
    """Return what the fleeting role cites of a question, and how near each is."""
    found = lab.ask("fleeting", "When did the wall fall?").citations
    return [(citation.document, citation.start, round(citation.score, 4)) for citation in found]


def test_a_network_shard_is_not_moved(lab):
    """What a server keeps is not ours to place: the refusal says so."""
    with pytest.raises(UserError) as refused:
        lab.move("papers", to="RAM")
    assert refused.value.code == "TRC023"
