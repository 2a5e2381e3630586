"""A shard: writes that last, replacements in one step, an index that can always be made again."""

import shutil
import threading

import numpy as np
import pytest

from actors.rag import recovery
from actors.rag.chunk import Chunk
from placement.errors import UserError, WorldError

TEXTS = {"a.md": "# Cats\n\nThe cat sat on the mat.", "b.md": "# Dogs\n\nThe dog ate the bone."}


def test_a_passage_says_where_it_stands(shelf, put, hashed):
    """A found passage has its document, heading, exact span, shard and cosine."""
    for name, text in TEXTS.items():
        put(shelf, name, text)
    (passage,) = shelf.search(hashed.encode([TEXTS["b.md"]])[0], 1)
    assert (passage.document, passage.heading, passage.shard) == ("b.md", "Dogs", "papers")
    assert TEXTS["b.md"][passage.start : passage.end] == passage.text == TEXTS["b.md"]
    assert passage.score == pytest.approx(1, abs=1e-6)


def test_the_same_document_again_changes_nothing(shelf, put):
    """A version that is live is not written again: no operation, the same digest."""
    assert put(shelf, "a.md", TEXTS["a.md"])
    before = shelf.stats()
    assert not put(shelf, "a.md", TEXTS["a.md"])
    assert shelf.stats() == before


def test_a_new_version_replaces_the_old_one(shelf, put, ask):
    """After a new version, nothing of the old one is found."""
    put(shelf, "a.md", "one\n\n" * 300)
    put(shelf, "a.md", "two")
    assert ask(shelf, "one", k=50) == ["two"]
    assert shelf.stats().points == 1


def test_equal_texts_of_two_documents_live_apart(shelf, put, ask):
    """Removing one of two documents with the same text leaves the other."""
    put(shelf, "a.md", "same")
    put(shelf, "b.md", "same")
    assert shelf.remove("a.md")
    assert not shelf.remove("a.md")
    assert ask(shelf, "same") == ["same"]
    assert list(shelf.documents()) == ["b.md"]


def test_searches_see_a_replacement_in_one_step(shelf, put, hashed):
    """While a document of many passages is replaced again and again, each search sees one version only."""
    versions = [f"word{n} " * 20 for n in range(2)]
    texts = ["\n\n".join(f"{version} {at}" * 6 for at in range(200)) for version in versions]
    put(shelf, "a.md", texts[0])
    query = hashed.encode([" ".join(versions)])[0]
    seen, done = [], threading.Event()

    def look() -> None:
        while not done.is_set():
            found = shelf.search(query, 30)
            seen.append((len(found), len({"word0" in passage.text for passage in found})))

    looker = threading.Thread(target=look)
    looker.start()
    for turn in range(1, 7):
        put(shelf, "a.md", texts[turn % 2])
    done.set()
    looker.join()
    assert set(seen) == {(30, 1)}


def test_what_was_written_is_there_after_reopening(shelf, put, ask, reopen, monkeypatch):
    """Close and open keep content and digest, load the index instead of building it, and replay nothing."""
    for name, text in TEXTS.items():
        put(shelf, name, text)
    shelf.remove("a.md")
    digest = shelf.stats().digest
    shelf.close()
    monkeypatch.setattr(recovery, "apply", lambda *_: pytest.fail("replayed"))
    again = reopen()
    assert (again.stats().digest, again.stats().rebuilt) == (digest, "")
    assert ask(again, "dog bone", k=5) == [TEXTS["b.md"]]
    again.close()


@pytest.mark.parametrize("loss", ["gone", "manifest", "points", "garbage"])
def test_a_lost_or_spoilt_index_is_built_again_from_the_log(shelf, put, ask, reopen, ram, loss):
    """Whatever happened to the index, opening makes it whole and says why."""
    for name, text in TEXTS.items():
        put(shelf, name, text)
    shelf.close()
    data = ram / "index" / "shard"
    if loss == "gone":
        shutil.rmtree(ram / "index")
    elif loss == "manifest":
        (ram / "index" / "MANIFEST.json").write_text("{")
    elif loss == "points":
        shutil.rmtree(data)
    else:
        for file in data.rglob("*.json"):
            file.write_bytes(b"\xff\x00")
    again = reopen()
    assert again.stats().rebuilt
    assert ask(again, "dog bone", k=1) == [TEXTS["b.md"]]
    assert again.stats().points == 2
    again.close()


def test_another_encoder_is_refused_with_both_names(shelf, reopen):
    """Vectors of two encoders cannot be compared, so the shard does not open with another one."""
    shelf.close()
    with pytest.raises(UserError, match=r"vectors of hash:1 .* encoder here is other:2") as caught:
        reopen(fingerprint="other:2")
    assert caught.value.code == "CFG063"


@pytest.mark.usefixtures("shelf")
def test_a_shard_has_one_owner_even_with_another_index_directory(reopen):
    """The log is locked: a second process cannot write to it through another index."""
    with pytest.raises(WorldError) as caught:
        reopen(index="other")
    assert caught.value.code == "RAG005"


def test_a_log_that_lost_writes_is_an_error(shelf, put, reopen, ram):
    """An index that has seen more than its log means that acknowledged writes are missing: that is said."""
    put(shelf, "a.md", TEXTS["a.md"])
    shelf.close()
    log = ram / "log" / "ops.log"
    short = log.read_bytes()
    again = reopen()
    put(again, "b.md", TEXTS["b.md"])
    again.close()
    log.write_bytes(short)
    with pytest.raises(WorldError, match=r"ends at operation 1, .* has seen 2") as caught:
        reopen()
    assert caught.value.code == "RAG008"


def test_a_refused_batch_leaves_nothing_behind(shelf, put, hashed):
    """One NaN among the vectors of a document, and none of its passages is stored."""
    chunks = [Chunk("x", 0, 1, "", "a.md"), Chunk("y", 1, 2, "", "a.md")]
    vectors = hashed.encode(["x", "y"])
    vectors[1, 3] = np.nan
    with pytest.raises(UserError) as caught:
        shelf.add("a.md", "v1", chunks, vectors)
    assert caught.value.code == "DOC020"
    with pytest.raises(UserError, match="lone surrogate"):
        shelf.add("a.md", "v1", [Chunk("\ud800", 0, 1, "", "a.md")], vectors[:1])
    assert (shelf.stats().seq, shelf.stats().points) == (0, 0)
    assert put(shelf, "a.md", "fine")


def test_a_question_must_be_a_vector_of_the_shard(shelf, hashed):
    """A query of another dimension, and a top_k of nothing, are the caller's errors."""
    with pytest.raises(UserError, match=r"\[1, 5\]"):
        shelf.search(np.ones(5, dtype=np.float32), 3)
    with pytest.raises(UserError, match="top_k is 0"):
        shelf.search(hashed.encode(["x"])[0], 0)


def test_a_closed_shard_says_so(shelf, hashed, put):
    """After close, reads and writes are typed errors, and closing again is harmless."""
    shelf.close()
    shelf.close()
    with pytest.raises(WorldError, match="is closed"):
        shelf.search(hashed.encode(["x"])[0], 1)
    with pytest.raises(WorldError, match="is closed"):
        put(shelf, "a.md", "x")
