"""Network shards: a Qdrant collection and a foreign search API, over real HTTP, with their faults."""

import asyncio
import os
import pickle
import uuid
from contextlib import aclosing

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from actors.rag import wire
from actors.rag.link import Link, Patience, open_link
from actors.rag.remote import Remote
from actors.rag.search_api import SearchApi
from placement.errors import UserError, WorldError
from tests.rag.far_server import cuts, drips, floods, hangs, says, serving

#: Short, but long enough for a busy machine to answer on loopback.
QUICK = Patience(deadline_s=20.0, try_s=10.0, pauses_s=(0.0, 0.0))
HASTY = Patience(deadline_s=0.3, try_s=0.2, pauses_s=(0.0,))
VECTORS = np.eye(4, dtype=np.float32)
PAGE = {
    "hits": {
        "found": [
            {"body": "low", "rank": 0.25, "meta": {"file": "b.md"}},
            {"body": "high", "rank": 0.75, "meta": {"file": "a.md"}},
        ]
    }
}
FIELDS = {
    "api": "http",
    "query": "q",
    "top_k": "n",
    "results": "hits.found",
    "text": "body",
    "score": "rank",
    "document": "meta.file",
}


@pytest.fixture
def far(tmp_path):
    """A server of our own."""
    with serving(tmp_path) as server:
        yield server


@pytest.fixture(params=["ours", "real"])
def qdrant(request):
    """The address of a Qdrant server: ours, and a real one if TIERCE_QDRANT_URL names it."""
    if request.param == "ours":
        return request.getfixturevalue("far").url
    if not (url := os.environ.get("TIERCE_QDRANT_URL")):
        pytest.skip("TIERCE_QDRANT_URL names no server")
    return url


@pytest.fixture
def collect(qdrant):
    """Create a collection of four points with the client itself; return its name."""
    client = QdrantClient(url=qdrant, check_compatibility=False)
    made = []

    def create(vectors, rows, payloads):
        made.append(f"tierce-{uuid.uuid4().hex}")
        client.create_collection(made[-1], vectors_config=vectors)
        points = [
            models.PointStruct(id=n, vector=row, payload=payload)
            for n, (row, payload) in enumerate(zip(rows, payloads, strict=True), 1)
        ]
        client.upsert(made[-1], points, wait=True)
        return made[-1]

    yield create
    for name in made:
        client.delete_collection(name)
    client.close()


@pytest.fixture
async def link():
    """Connect to an address; every way is closed in the end."""
    links = []

    def make(remote, patience=QUICK):
        links.append(open_link("papers", remote, patience))
        return links[-1]

    yield make
    for one in links:
        await one.close()


@pytest.fixture
def api(far, link):
    """The way to the search API of our server; it answers with PAGE."""
    far.pages["/search"] = PAGE

    def open_api(patience=QUICK, **fields):
        return link(Remote(far.url + "/search", **{**FIELDS, **fields}), patience)

    return open_api


def texts(n):
    """Payloads in which the text stands under a name of its own."""
    return [{"page": f"text {at}", "from": {"file": f"{at}.md"}} for at in range(n)]


async def test_a_collection_gives_its_nearest_points_as_passages(qdrant, collect, link):
    """Texts and documents come from the fields that the map names, the score is the cosine, best first."""
    size = models.VectorParams(size=4, distance=models.Distance.COSINE)
    name = collect(size, VECTORS.tolist(), texts(4))
    papers = link(Remote(qdrant, collection=name, text="page", document="from.file"))
    await papers.check(4)
    found = await papers.search("?", np.array([0, 3, 4, 0], dtype=np.float32), 2)
    assert [(one.text, one.document, one.shard) for one in found] == [
        ("text 2", "2.md", "papers"),
        ("text 1", "1.md", "papers"),
    ]
    assert [one.score for one in found] == pytest.approx([0.8, 0.6])
    assert (papers.reachable, papers.problem, papers.points) == (True, "", 4)


async def test_a_shard_of_ours_keeps_headings_and_spans(qdrant, collect, link):
    """A payload as Tierce writes it comes back with the place in its document."""
    size = models.VectorParams(size=4, distance=models.Distance.COSINE)
    row = {"text": "so", "document": "a.md", "heading": "War", "start": 7, "end": 9}
    name = collect(size, VECTORS[:1].tolist(), [row])
    (found,) = await link(Remote(qdrant, collection=name)).search("?", VECTORS[0], 3)
    assert (found.document, found.heading, found.start, found.end) == ("a.md", "War", 7, 9)


async def test_the_only_named_vector_is_found_and_one_of_several_must_be_named(qdrant, collect, link):
    """With one vector its name need not be written; with two it must, and the error says which there are."""
    size = models.VectorParams(size=4, distance=models.Distance.DOT)
    one = collect({"text": size}, [{"text": [1.0, 0, 0, 0]}], texts(1))
    row = {"text": [1.0, 0, 0, 0], "title": [0, 1.0, 0, 0]}
    two = collect({"text": size, "title": size}, [row], texts(1))
    assert await link(Remote(qdrant, collection=one, text="page")).search("?", VECTORS[0], 1)
    with pytest.raises(UserError, match="text, title") as caught:
        await link(Remote(qdrant, collection=two, text="page")).check(4)
    assert caught.value.code == "RAG025"
    (found,) = await link(Remote(qdrant, collection=two, text="page", vector="title")).search(
        "?", VECTORS[1], 1
    )
    assert found.score == pytest.approx(1.0)


async def test_a_euclidean_distance_becomes_the_cosine(qdrant, collect, link):
    """Scores of a collection that measures distances compare with those of the other shards."""
    size = models.VectorParams(size=4, distance=models.Distance.EUCLID)
    name = collect(size, VECTORS[:2].tolist(), texts(2))
    found = await link(Remote(qdrant, collection=name, text="page")).search("?", VECTORS[0], 2)
    assert [one.score for one in found] == pytest.approx([1.0, 0.0], abs=1e-6)


async def test_another_encoder_is_refused_before_and_while_searching(qdrant, collect, link):
    """A collection of another dimension is CFG063 with both numbers, whether or not it was checked."""
    size = models.VectorParams(size=4, distance=models.Distance.COSINE)
    name = collect(size, VECTORS.tolist(), texts(4))
    papers = link(Remote(qdrant, collection=name, text="page"))
    for call in (papers.check(384), papers.search("?", np.ones(384, dtype=np.float32), 1)):
        with pytest.raises(UserError, match=r"4 dimensions.*384") as caught:
            await call
        assert caught.value.code == "CFG063"


async def test_a_collection_made_anew_with_another_dimension_is_told(far, link):
    """The server's own refusal of a vector is CFG063, too, and the next search asks it anew."""
    far.make("papers", {"size": 4, "distance": "Cosine"})
    papers = link(Remote(far.url, collection="papers"))
    await papers.check(4)
    far.collections.pop("papers")[1].close()
    far.folder = far.folder / "new"
    far.folder.mkdir()
    far.make("papers", {"size": 3, "distance": "Cosine"})
    for match in ("expected dim: 3, got 4", "3 dimensions.*4"):
        with pytest.raises(UserError, match=match) as caught:
            await papers.search("?", VECTORS[0], 1)
        assert caught.value.code == "CFG063"


async def test_a_collection_that_is_not_there_is_named(qdrant, link):
    """The error says the collection, and that url and collection should be checked."""
    with pytest.raises(UserError, match="collection nowhere answered 404") as caught:
        await link(Remote(qdrant, collection="nowhere")).check(4)
    assert (caught.value.code, caught.value.hint) == ("RAG023", "check url and collection")


async def test_a_search_api_is_asked_and_read_as_the_map_says(far, api):
    """Question and count go in the named fields; the list lies deeper; passages come best first."""
    found = await api().search("why?", None, 5)
    assert [(one.text, one.document, one.score) for one in found] == [
        ("high", "a.md", 0.75),
        ("low", "b.md", 0.25),
    ]
    assert (found[0].start, found[0].end, found[0].shard) == (0, 4, "papers")
    assert far.asked[0].json == {"q": "why?", "n": 5}


async def test_more_results_than_asked_for_are_cut(api):
    """An API without a field for the count cannot crowd the prompt."""
    assert [one.text for one in await api(top_k=None).search("why?", None, 1)] == ["high"]


async def test_an_answer_that_is_the_list_itself_is_read(far, link):
    """`results: .` means the answer; a result without a document is named by its place."""
    far.pages["/list"] = [{"text": "so", "score": 1}]
    (found,) = await link(Remote(far.url + "/list", api="http", results=".")).search("why?", None, 2)
    assert (found.text, found.document, found.score) == ("so", "result 1", 1.0)


@pytest.mark.parametrize(
    ("fault", "code", "match"),
    [
        (says(401, {"detail": "who are you"}), "RAG022", "answered 401: who are you"),
        (says(403), "RAG022", "answered 403"),
        (says(404, "<html><b>Not Found</b></html>"), "RAG023", "answered 404: Not Found"),
        (says(302, Location="http://elsewhere.example/"), "RAG024", "answered 302"),
        (says(422, {"message": "no field q"}), "RAG024", "no field q"),
        (says(200, "<html>"), "RAG025", "no JSON"),
        (says(200, "[" * 100_000), "RAG025", "no JSON"),
        (says(200, {"results": []}), "RAG025", "no list is at 'hits.found'.*has: results"),
        (says(200, {"hits": {"found": [{"title": "x"}]}}), "RAG025", "no text is at 'body'.*has: title"),
        (says(200, {"hits": {"found": [{"body": 5, "rank": 1}]}}), "RAG025", "no text"),
        (says(200, {"hits": {"found": ["so"]}}), "RAG025", "no text"),
        (says(200, {"hits": {"found": [{"body": "x", "rank": True}]}}), "RAG025", "no number is at 'rank'"),
        (says(200, '{"hits": {"found": [{"body": "x", "rank": NaN}]}}'), "RAG025", "no number"),
        (says(200, '{"hits": {"found": [{"body": "x", "rank": 1%s}]}}' % ("0" * 400)), "RAG025", "no number"),
        (says(200, b"\x1f\x8b", Content_Encoding="gzip"), "RAG025", "gzip"),
        (floods, "RAG026", "more than"),
    ],
    ids=range(16),
)
async def test_a_fault_that_stays_is_a_user_error_after_one_request(far, api, fault, code, match):
    """What will fail again unchanged is not tried again; the message names the address and what is wrong."""
    far.faults.append(fault)
    with pytest.raises(UserError, match=match) as caught:
        await api().search("why?", None, 2)
    assert caught.value.code == code
    assert far.url in caught.value.message
    assert caught.value.hint
    assert len(far.asked) == 1


@pytest.mark.parametrize("fault", [says(500), says(503, "busy"), cuts], ids=["500", "503", "cut"])
async def test_a_fault_that_passes_is_not_noticed(far, api, fault):
    """A search that failed once or twice by no fault of its own is done again."""
    far.faults.extend([fault, fault])
    assert len(await api().search("why?", None, 2)) == 2
    assert len(far.asked) == 3


async def test_a_server_that_is_busy_is_not_pressed(far, api):
    """An answer 429 is not followed by another try."""
    far.faults.append(says(429, {"error": "slow down"}, Retry_After="1"))
    with pytest.raises(WorldError, match="slow down") as caught:
        await api().search("why?", None, 2)
    assert (caught.value.code, len(far.asked)) == ("RAG028", 1)


@pytest.mark.parametrize("fault", [hangs, drips])
async def test_an_answer_that_never_ends_ends_at_the_deadline(far, api, fault):
    """Neither silence nor a byte now and then holds an ask longer than its deadline."""
    far.faults.extend([fault] * 3)
    with pytest.raises(WorldError, match="did not answer in time") as caught:
        await api(HASTY).search("why?", None, 2)
    assert caught.value.code == "RAG021"


@pytest.mark.parametrize(
    ("fault", "family", "code"),
    [
        (says(401, {"status": {"error": "Must provide an API key"}}), UserError, "RAG022"),
        (says(200, "<html>a dashboard</html>"), UserError, "RAG025"),
        (says(200, {"result": None, "status": "ok", "time": 0}), UserError, "RAG025"),
        (says(200, "[" * 100_000), UserError, "RAG025"),
        (says(429, {"status": {"error": "slow"}}, Retry_After="3"), WorldError, "RAG028"),
        (floods, UserError, "RAG026"),
    ],
    ids=range(6),
)
async def test_faults_of_a_qdrant_server_are_typed_alike(far, link, fault, family, code):
    """Whatever the client of Qdrant raises comes out as an error of ours that names the address."""
    far.faults.append(fault)
    with pytest.raises(family) as caught:
        await link(Remote(far.url, collection="papers")).check(4)
    assert caught.value.code == code
    assert "collection papers" in caught.value.message


async def test_a_qdrant_server_that_falters_is_asked_again(far, link):
    """Errors of the server and cut connections are retried with the client of Qdrant, too."""
    far.make("papers", {"size": 4, "distance": "Cosine"})
    far.faults.extend([says(502), cuts])
    papers = link(Remote(far.url, collection="papers"))
    await papers.check(4)
    assert (papers.points, len(far.asked)) == (0, 3)


async def test_nobody_there_is_told_with_the_address(link):
    """A refused connection is RAG020, for both kinds of server."""
    for remote in (Remote("http://127.0.0.1:9", collection="x"), Remote("http://127.0.0.1:9/s", api="http")):
        papers = link(remote)
        with pytest.raises(WorldError, match=r"http://127\.0\.0\.1:9.* cannot be reached") as caught:
            await papers.search("?", VECTORS[0], 1)
        assert caught.value.code == "RAG020"
        assert (papers.reachable, papers.problem) == (False, str(caught.value))


@pytest.mark.parametrize("url", ["http://[", "gopher://x/", "no address"])
async def test_what_is_no_address_is_told(url, link):
    """An address that no client understands is an error of whoever wrote it."""
    with pytest.raises(UserError) as caught:
        await link(Remote(url, api="http")).search("?", None, 1)
    assert caught.value.code == "RAG024"


@pytest.mark.parametrize("api_name", ["qdrant", "http"])
async def test_the_key_is_sent_and_never_shown(far, link, api_name):
    """Key, user, password and query of the address reach the server and no message, cause or repr."""
    address = far.url.replace("//", "//user:p%40ss@") + "?token=hidden"
    remote = Remote(address if api_name == "http" else address.partition("?")[0], api=api_name,
                    collection="papers" if api_name == "qdrant" else "", api_key="sesame")  # fmt: skip
    echo = {"error": "sesame, p@ss, p%40ss and token=hidden are wrong", "status": {"error": "sesame p@ss"}}
    for fault in (says(400, echo), says(401, echo)):
        far.faults.append(fault)
        with pytest.raises(UserError) as caught:
            await link(remote).check(4)
        shown = f"{caught.value!r} {caught.value.__cause__!r} {remote!r} {pickle.dumps(caught.value)!r}"
        for secret in ("sesame", "p@ss", "p%40ss", "hidden"):
            assert secret not in shown
    sent = far.asked[0].headers
    assert "sesame" in (sent.get("api-key") or sent["authorization"])
    if api_name == "qdrant":
        assert sent["authorization"].startswith("Basic ")


async def test_an_address_that_keeps_failing_is_left_alone_for_a_while(far, api):
    """After three failed calls no request is sent until the pause is over; then one, and if well, all."""
    papers = api()
    now_s = 100.0
    papers._clock = lambda: now_s  # noqa: SLF001 -- the clock of the test
    far.faults.extend([says(500)] * 9)
    for _ in range(3):
        with pytest.raises(WorldError, match="answered 500"):
            await papers.search("why?", None, 1)
    asked = len(far.asked)
    with pytest.raises(WorldError, match=r"left alone for 2\.0 s more; before: .*500") as caught:
        await papers.search("why?", None, 1)
    assert (caught.value.code, len(far.asked)) == ("RAG027", asked)
    now_s += 2.5
    await papers.search("why?", None, 1)
    await papers.search("why?", None, 1)
    assert len(far.asked) == asked + 2


async def test_searches_run_side_by_side(far, api):
    """One search that hangs keeps no other waiting."""
    papers = api()
    far.faults.append(hangs)
    slow = asyncio.create_task(papers.search("slow", None, 1))
    await asyncio.to_thread(far.arrivals.acquire)
    assert await papers.search("quick", None, 1)
    assert not slow.done()
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow


async def test_an_answer_larger_than_the_limit_is_not_read_to_its_end(far):
    """The limit holds for honest sizes, too."""
    far.pages["/search"] = [{"text": "x" * 5000, "score": 1}]
    remote = Remote(far.url + "/search", api="http", results=".")
    for limit, enough in ((4000, False), (wire.MAX_NBYTES, True)):
        async with aclosing(
            _Closing(Link(remote, lambda most=limit: SearchApi("papers", remote, 10.0, most)))
        ) as papers:
            if enough:
                assert await papers.link.search("?", None, 1)
            else:
                with pytest.raises(UserError, match="more than"):
                    await papers.link.search("?", None, 1)


class _Closing:
    """What `aclosing` wants of a link."""

    def __init__(self, link):
        self.link = link
        self.aclose = link.close
