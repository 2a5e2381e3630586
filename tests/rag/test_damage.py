"""Damage to an index on its disk: found at open, or at the search that meets it, and mended from the log."""

import errno
import json
import os

import pytest

from actors.rag.manifest import Manifest, digests
from actors.rag.shelf import Shelf
from placement.errors import UserError, WorldError
from placement.tiers import Tier

DIM = 64
TEXTS = {"a.md": "The cat sat on the mat.", "b.md": "The dog ate the bone."}


@pytest.fixture
def filled(shelf, put):
    """Return a shard with two documents."""
    for name, text in TEXTS.items():
        put(shelf, name, text)
    return shelf


def _engine_file(home, name, mark):
    """Return the engine's file `name` that holds the bytes `mark`, and where."""
    for path in home.rglob(name):
        at = path.read_bytes().find(mark)
        if at >= 0:
            return path, at
    raise AssertionError(f"no {name} under {home} holds {mark!r}")


def _overwrite(path, at, data):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def _flip_text(home):
    path, at = _engine_file(home, "page_0.dat", b"dog ate")
    _overwrite(path, at, b"f")


def _swap_vectors(home):
    row = DIM * 4
    (path,) = (file for file in home.rglob("chunk_0.mmap") if any(file.read_bytes()[:row]))
    rows = path.read_bytes()[: 2 * row]
    _overwrite(path, 0, rows[row:] + rows[:row])


def _spoil_texts(home):
    path, at = _engine_file(home, "page_0.dat", b"dog ate")
    _overwrite(path, max(at - 300, 0), b"\xff" * 600)


@pytest.mark.parametrize("damage", [_flip_text, _swap_vectors])
@pytest.mark.parametrize("idle", [False, True])
def test_damage_to_a_closed_index_is_found_at_open(filled, reopen, ask, ram, damage, idle):
    """A changed letter of a text, or two vectors exchanged, and the index is built anew and answers right."""
    filled.close()
    if idle:  # opened and closed once more without a write
        reopen().close()
    damage(ram / "index")
    again = reopen()
    assert "is not as it was written" in again.stats().rebuilt
    assert ask(again, "dog bone", k=1) == [TEXTS["b.md"]]
    again.close()
    assert reopen().stats().rebuilt == ""


@pytest.mark.parametrize("tier", [Tier.RAM, Tier.SSD])
def test_a_built_index_has_digests_until_it_is_written_to(filled, put, reopen, ram, tier):
    """A move leaves digests of every file, the first write drops them, and closing takes them again."""
    filled.rehome(ram / "moved", tier)
    moved = Manifest.read(ram / "moved")
    assert moved.files
    put(filled, "c.md", "A bird sang.")
    assert Manifest.read(ram / "moved").files == {}
    filled.checkpoint()
    assert Manifest.read(ram / "moved").files == {}
    filled.close()
    closed = Manifest.read(ram / "moved").files
    assert closed == digests(ram / "moved") != moved.files
    again = reopen("moved", tier)
    assert again.stats().rebuilt == ""
    again.close()


def test_a_failed_search_makes_the_next_open_rebuild(filled, reopen, ask, ram):
    """Texts that the engine cannot read fail the search, and reopening mends them, as the hint says."""
    filled.close()
    path = ram / "index" / "MANIFEST.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": {}}))  # as after a kill
    _spoil_texts(ram / "index")
    again = reopen()
    assert again.stats().rebuilt == ""
    with pytest.raises(WorldError, match="engine failed") as caught:
        ask(again, "dog bone", k=2)
    assert caught.value.code == "RAG006"
    again.close()
    mended = reopen()
    assert mended.stats().rebuilt == "no manifest"
    assert ask(mended, "dog bone", k=1) == [TEXTS["b.md"]]
    mended.close()


def test_a_write_that_cannot_drop_the_digests_is_refused(filled, ram, monkeypatch):
    """On a full disk the first write to a built index fails, typed, before anything is logged."""
    filled.rehome(ram / "moved", Tier.RAM)
    before = filled.stats()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorldError, match=r"MANIFEST\.json\.new could not be written: No space") as caught:
        filled.remove("a.md")
    assert (caught.value.code, filled.stats().seq) == ("RAG003", before.seq)
    monkeypatch.undo()
    assert filled.remove("a.md")


def test_a_move_mends_an_index_that_failed_a_search(filled, put, reopen, ask, ram):
    """The copy is built from the log, so it answers, and it counts as sound again."""
    filled.close()
    path = ram / "index" / "MANIFEST.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": {}}))
    _spoil_texts(ram / "index")
    again = reopen()
    with pytest.raises(WorldError):
        ask(again, "dog bone", k=2)
    put(again, "c.md", "A bird sang.")
    again.rehome(ram / "moved", Tier.RAM)
    assert ask(again, "bird sang", k=1) == ["A bird sang."]
    put(again, "d.md", "A fish swam.")
    again.close()
    sound = reopen("moved")
    assert (len(sound.documents()), sound.stats().rebuilt) == (4, "")
    sound.close()


def test_a_digest_is_of_the_content_and_not_of_the_holes(ram):
    """A sparse file and its full copy have one digest; one byte, its place and the length change it."""
    data = ram / "index" / "shard"
    data.mkdir(parents=True)
    content = bytearray(3 << 20)
    content[(1 << 20) + 5] = 7
    (data / "full").write_bytes(content)
    with (data / "sparse").open("wb") as file:
        file.truncate(len(content))
        file.seek((1 << 20) + 5)
        file.write(b"\x07")
    content[(1 << 20) + 5], content[(2 << 20) + 5] = 0, 7
    (data / "moved").write_bytes(content)
    (data / "longer").write_bytes((data / "full").read_bytes() + b"\0")
    found = digests(ram / "index")
    assert found["full"] == found["sparse"]
    assert len(set(found.values())) == 3


@pytest.mark.parametrize("theirs", ["notes.txt", "shard/photo.jpg", "MANIFEST.json"])
def test_a_directory_of_the_user_is_no_place_for_an_index(filled, reopen, tmp_path, theirs):
    """Opening a shard, or moving it, into somebody's files is refused with their name and changes nothing."""
    home = tmp_path / "theirs"
    (home / theirs).parent.mkdir(parents=True)
    (home / theirs).write_text("ten years")

    def content():
        return {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}

    before = content()
    with pytest.raises(UserError, match=f"{home} holds '{theirs.split('/')[0]}'") as caught:
        filled.rehome(home, Tier.RAM)
    assert (caught.value.code, content()) == ("RAG009", before)
    filled.close()
    with pytest.raises(UserError, match=f"{home} holds '{theirs.split('/')[0]}'") as caught:
        reopen(str(home))
    assert (caught.value.code, content()) == ("RAG009", before)


def test_damage_to_the_original_vectors_on_ssd_is_found_at_open(wide, ram):
    """A sealed index whose cold vectors changed is built anew."""
    shelf, vectors = wide
    assert shelf.seal()
    shelf.close()
    (path,) = (ram / "index").rglob("matrix.dat")
    _overwrite(path, path.stat().st_size // 2, bytes(500))
    again = Shelf.open("papers", ram / "log", ram / "index", Tier.SSD, 32, "random:1")
    assert "matrix.dat is not as it was written" in again.stats().rebuilt
    assert again.search(vectors[600], 1)[0].text == "passage 600"
    again.close()
