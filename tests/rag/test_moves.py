"""A shard on the move: it answers, takes writes, lies where it was told; a failed move leaves nothing."""

import json
import subprocess
import sys
import threading
from dataclasses import asdict

import pytest

from actors.rag import build, index
from actors.rag import shelf as shelves
from actors.rag.index import guard_space
from actors.rag.manifest import Manifest
from actors.rag.shelf import Shelf
from placement.errors import UserError, WorldError
from placement.tiers import Tier

TEXTS = {"a.md": "# Cats\n\nThe cat sat on the mat.", "b.md": "# Dogs\n\nThe dog ate the bone."}
#: A builder that dies of SIGBUS with half an index written, as on a full tmpfs.
KILLED = """
import json, os, pathlib, signal, sys
segments = pathlib.Path(json.loads(sys.argv[1])["work"]["directory"]) / "shard" / "segments"
segments.mkdir(parents=True, exist_ok=True)
(segments / "half").write_bytes(bytes(range(256)) * 4096)
os.kill(os.getpid(), signal.SIGBUS)
"""


def test_a_move_waits_for_the_whole_of_a_seal(wide, ram, monkeypatch):
    """A move that comes while a seal runs is done after it, so the shard stays where the user moved it."""
    shelf, _ = wide
    rival = threading.Thread(target=lambda: shelf.rehome(ram / "ram", Tier.RAM))

    def slowly(*work):
        if rival.ident is None:
            rival.start()
        return build.build(*work)

    monkeypatch.setattr(shelves, "build", slowly)
    assert shelf.seal()
    rival.join()
    assert (shelf.stats().tier, shelf.stats().index_dir) == (Tier.RAM, str(ram / "ram"))
    assert sorted(path.name for path in ram.iterdir()) == ["log", "ram"]


def test_a_killed_builder_leaves_no_files(shelf, put, ask, ram, monkeypatch):
    """When the child dies of a full memory disk, what it wrote there is removed, and the shard answers."""
    put(shelf, "a.md", TEXTS["a.md"])
    monkeypatch.setattr(build, "_BOOT", KILLED)
    with pytest.raises(WorldError, match="exit status -7") as caught:
        shelf.rehome(ram / "ssd", Tier.SSD)
    assert caught.value.code == "RAG006"
    assert sorted(path.name for path in ram.iterdir()) == ["index", "log"]
    assert ask(shelf, "cat") == [TEXTS["a.md"]]


def test_a_builder_killed_at_open_leaves_no_files(shelf, put, reopen, ram, monkeypatch):
    """A rebuild that is killed gives the room back, too."""
    put(shelf, "a.md", TEXTS["a.md"])
    shelf.close()
    (ram / "index" / "MANIFEST.json").unlink()
    monkeypatch.setattr(build, "_BOOT", KILLED)
    with pytest.raises(WorldError, match="exit status -7"):
        reopen()
    assert [path.name for path in ram.iterdir()] == ["log"]


def test_a_copy_that_cannot_be_opened_leaves_no_files(shelf, put, ram, monkeypatch):
    """Without room to map the files of the copy, the copy is removed."""
    put(shelf, "a.md", TEXTS["a.md"])
    monkeypatch.setattr(index, "guard_space", lambda at, n: guard_space(at, n, 1 << 60))
    with pytest.raises(WorldError) as caught:
        shelf.rehome(ram / "ssd", Tier.SSD)
    assert caught.value.code == "RAG003"
    assert sorted(path.name for path in ram.iterdir()) == ["index", "log"]


def test_a_target_in_use_is_left_to_its_owner(shelf, put, ram, hashed, monkeypatch):
    """A move onto the index of another shard is refused, and that index stays."""
    monkeypatch.setattr(index, "ORPHAN_S", 0.1)
    impatient = f"import actors.rag.index as i; i.ORPHAN_S = 0.1; {vars(build)['_BOOT']}"
    monkeypatch.setattr(build, "_BOOT", impatient)
    other = Shelf.open("other", ram / "log2", ram / "index2", Tier.RAM, hashed.dim, hashed.fingerprint)
    put(other, "b.md", TEXTS["b.md"])
    put(shelf, "a.md", TEXTS["a.md"])
    with pytest.raises(WorldError) as caught:
        shelf.rehome(ram / "index2", Tier.RAM)
    assert (caught.value.code, getattr(caught.value, "__notes__", [])) == ("RAG005", [])
    other.close()
    again = Shelf.open("other", ram / "log2", ram / "index2", Tier.RAM, hashed.dim, hashed.fingerprint)
    assert (list(again.documents()), again.stats().rebuilt) == (["b.md"], "")
    again.close()


def test_whatever_fails_in_the_builder_is_named(ram):
    """An error without a code arrives with its type and its text."""
    manifest = Manifest("log-1", "hash:1", 8, "RAM", 1)
    with pytest.raises(WorldError, match=r"FileNotFoundError: .*nowhere\.log") as caught:
        build.build(ram / "nowhere.log", ram / "index", manifest)
    assert caught.value.code == "RAG006"


def test_a_move_changes_the_tier_and_nothing_else(shelf, put, ask, ram):
    """The index goes to SSD and back: same digest, same answers, and the old directory is gone."""
    for name, text in TEXTS.items():
        put(shelf, name, text)
    before, old = shelf.stats(), ram / "index"
    shelf.rehome(ram / "ssd", Tier.SSD)
    moved = shelf.stats()
    assert (moved.tier, moved.index_dir, moved.digest) == (Tier.SSD, str(ram / "ssd"), before.digest)
    assert not old.exists()
    assert json.loads((ram / "ssd" / "MANIFEST.json").read_text())["tier"] == "SSD"
    put(shelf, "c.md", "A bird sang.")
    shelf.rehome(old, Tier.RAM)
    assert not (ram / "ssd").exists()
    assert sorted(ask(shelf, "the a", k=9)) == sorted([*TEXTS.values(), "A bird sang."])


def test_sealing_quantises_what_was_written_on_ssd(wide, ram):
    """A shard filled on SSD is quantised in place by one seal; a second one has nothing to do."""
    shelf, vectors = wide
    home = ram / "index"
    assert not list(home.rglob("quantized.data"))
    assert (shelf.seal(), shelf.seal()) == (True, False)
    assert list(home.rglob("quantized.data"))
    assert sorted(path.name for path in ram.iterdir()) == ["index", "log"]
    assert shelf.search(vectors[77], 1)[0].text == "passage 77"
    shelf.rehome(ram / "ram", Tier.RAM)
    assert not shelf.seal()
    assert shelf.stats().tier is Tier.RAM


def test_a_move_to_an_unfit_directory_changes_nothing(shelf, put, ask, ram, tmp_path):
    """A target with foreign files, or the present one, is refused, and the shard answers as before."""
    put(shelf, "a.md", TEXTS["a.md"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("ten years")
    for target in (tmp_path / "mine", ram / "index"):
        with pytest.raises(UserError) as caught:
            shelf.rehome(target, Tier.SSD)
        assert caught.value.code == "RAG009"
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "ten years"
    assert (shelf.stats().tier, ask(shelf, "cat")) == (Tier.RAM, [TEXTS["a.md"]])


def test_reads_and_writes_go_on_while_the_shard_moves(shelf, put, ask, ram, reopen):
    """During moves every search answers, every acknowledged write is found at once and after the move."""
    put(shelf, "base.md", "\n\n".join(f"base passage {n} " * 20 for n in range(300)))
    failures, written, done = [], [], threading.Event()

    def work() -> None:
        while not done.is_set():
            name = f"live{len(written)}"
            text = f"{name} zebra unique"
            put(shelf, name, text)
            written.append(name)
            if text not in ask(shelf, text, 50):
                failures.append(name)

    worker = threading.Thread(target=work)
    worker.start()
    shelf.rehome(ram / "ssd", Tier.SSD)
    shelf.rehome(ram / "back", Tier.RAM)
    done.set()
    worker.join()
    assert failures == []
    assert len(written) > 3
    assert set(shelf.documents()) == {"base.md", *written}
    shelf.close()
    again = reopen(index="back")
    assert set(again.documents()) == {"base.md", *written}
    again.close()


def test_an_orphaned_builder_creates_nothing(ram):
    """A builder whose parent died before it began leaves no directory behind."""
    manifest = asdict(Manifest("log-1", "hash:1", 8, "RAM", 1))
    work = asdict(build.Work(1, str(ram / "ops.log"), str(ram / "index"), manifest))
    job = json.dumps({"path": sys.path, "work": work})
    boot = [sys.executable, "-c", vars(build)["_BOOT"], job]
    with subprocess.Popen(
        boot, stdin=subprocess.PIPE
    ) as child:  # its input stays open: only its parent differs
        assert child.wait(30) == 1
    assert list(ram.iterdir()) == []
