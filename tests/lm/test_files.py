"""Images on the SSD: after a crash or a flipped bit an item is whole, or it is not there."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from actors.lm.files import PROOFS, RESERVE_NBYTES, ImageFiles
from actors.lm.image import image_digest
from placement.errors import UserError, WorldError

ROOT = Path(__file__).resolve().parents[2]
ITEM = "philosopher@3fa9c1d2b0aa"
IMAGE = np.arange(5000, dtype=np.uint8)
DIGEST = image_digest(IMAGE)


@pytest.fixture
def files(tmp_path):
    """A folder with one item."""
    files = ImageFiles(tmp_path / "ssd")
    files.put(ITEM, IMAGE, DIGEST)
    return files


def opened_again(files):
    """The folder as a new process finds it."""
    files.close()
    return ImageFiles(files.root)


def code(call, *args):
    """The code of the WorldError that `call` raises."""
    with pytest.raises(WorldError) as raised:
        call(*args)
    return raised.value.code


def test_what_was_put_comes_back_after_a_restart(files):
    """Bytes, inventory and presence are the same for a new process."""
    again = opened_again(files)
    assert np.array_equal(again.get(ITEM), IMAGE)
    assert again.inventory() == {ITEM: 5000}


def test_putting_twice_writes_once(files):
    """The second put of the same bytes leaves the file alone."""
    file = files.root / f"{ITEM}.safetensors"
    before = file.stat().st_ino
    files.put(ITEM, IMAGE, DIGEST)
    assert file.stat().st_ino == before


def test_a_drop_is_for_good_and_may_be_repeated(files):
    """Nothing of the item is left; a second drop is no error; a get says it is not here."""
    files.drop(ITEM)
    files.drop(ITEM)
    assert files.inventory() == {}
    assert code(files.get, ITEM) == "STO001"
    assert sorted(path.name for path in files.root.iterdir()) == ["LOCK", "quarantine"]


def test_bytes_that_do_not_match_their_digest_are_not_kept(files):
    """A put of damaged bytes is STO002 and changes nothing."""
    assert code(files.put, "other@1", IMAGE[1:], DIGEST) == "STO002"
    assert files.inventory() == {ITEM: 5000}


def test_leftovers_of_a_crash_are_removed_at_open(files):
    """A half written file, and an image without its sidecar, are gone; whole items stay."""
    (files.root / "other@1.safetensors.tmp").write_bytes(b"half")
    (files.root / "other@2.safetensors").write_bytes(b"renamed, but its sidecar never came")
    again = opened_again(files)
    assert again.inventory() == {ITEM: 5000}
    assert sorted(path.name for path in again.root.glob("*.*")) == [f"{ITEM}.json", f"{ITEM}.safetensors"]


@pytest.mark.parametrize("damage", ["flip", "cut", "sidecar"])
def test_a_damaged_item_is_set_aside(files, damage):
    """A flipped bit, a cut file or a cut sidecar gives STO002 once, then STO001; the evidence is kept."""
    file, sidecar = files.root / f"{ITEM}.safetensors", files.root / f"{ITEM}.json"
    content = bytearray(file.read_bytes())
    match damage:
        case "flip":
            content[1234] ^= 1
            file.write_bytes(content)
        case "cut":
            file.write_bytes(content[:-1])
        case "sidecar":
            sidecar.write_text(sidecar.read_text()[:20])
    assert code(files.get, ITEM) == "STO002"
    assert code(files.get, ITEM) == "STO001"
    assert files.inventory() == {}
    assert len(list(files.quarantine.iterdir())) == 2
    files.put(ITEM, IMAGE, DIGEST)
    assert np.array_equal(files.get(ITEM), IMAGE)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"nbytes": null, "digest": 1}', '{"nbytes": 5000'])
def test_an_item_with_a_broken_sidecar_is_not_here(files, content):
    """Whatever a sidecar holds, inventory and has do not fail, and do not count the item."""
    (files.root / f"{ITEM}.json").write_text(content)
    assert files.inventory() == {}
    assert ITEM not in files.inventory()


def test_a_sidecar_tells_size_and_digest(files):
    """The digest that a scrub needs is beside the image."""
    told = json.loads((files.root / f"{ITEM}.json").read_text())
    assert (told["item"], told["nbytes"], told["digest"]) == (ITEM, 5000, DIGEST)


def test_a_full_disk_is_refused_before_anything_is_written(files):
    """An image larger than what is free, less the reserve, is STO003 with both numbers."""
    disk = os.statvfs(files.root)
    nbytes = disk.f_bavail * disk.f_frsize - RESERVE_NBYTES // 2
    huge = np.broadcast_to(np.uint8(0), nbytes)
    with pytest.raises(WorldError, match="free") as refused:
        files._check_room("huge@1", huge.nbytes)  # noqa: SLF001 -- no test fills a disk
    assert refused.value.code == "STO003"


@pytest.mark.parametrize("item", ["../../etc/passwd", "", ".hidden", "a/b", "a b", "x" * 300])
def test_an_item_cannot_leave_the_folder(files, item):
    """A name that is no item's is refused before it becomes a path."""
    with pytest.raises(UserError) as refused:
        files.put(item, IMAGE, DIGEST)
    assert refused.value.code == "STO006"


def test_a_folder_that_cannot_be_used_is_a_typed_error(tmp_path):
    """A root that is a file gives STO005."""
    (tmp_path / "file").write_text("")
    assert code(ImageFiles, tmp_path / "file") == "STO005"


def test_the_budget_of_the_folder_is_never_exceeded(tmp_path):
    """What does not fit besides what is there is refused with the numbers, and nothing is written."""
    files = ImageFiles(tmp_path / "ssd", budget=8000)
    files.put(ITEM, IMAGE, DIGEST)
    with pytest.raises(WorldError, match=r"philosopher@3fa9c1d2b0aa 4\.9 KiB") as refused:
        files.put("coder@1", IMAGE, DIGEST)
    assert refused.value.code == "STO003"
    assert files.inventory() == {ITEM: 5000}
    files.put(ITEM, IMAGE, DIGEST)


def test_a_file_that_is_no_item_s_is_passed_over(files):
    """A stray note in the folder does not keep the items from being listed."""
    (files.root / ".notes.json").write_text('{"nbytes": 1, "digest": "x"}')
    assert files.inventory() == {ITEM: 5000}


def test_a_folder_has_one_owner(files, monkeypatch):
    """A second owner of the folder gets STO007 with its path, and the first goes on."""
    monkeypatch.setattr("actors.lm.disk.LOCK_WAIT_S", 0.1)
    with pytest.raises(WorldError) as refused:
        ImageFiles(files.root)
    assert refused.value.code == "STO007"
    assert str(files.root) in refused.value.message
    assert np.array_equal(files.get(ITEM), IMAGE)


def test_a_killed_owner_leaves_the_folder_free(tmp_path):
    """A new owner waits for a process that is being killed, and then has the folder."""
    root = tmp_path / "ssd"
    own = f"from actors.lm.files import ImageFiles; f = ImageFiles({str(root)!r}); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", own], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout.readline()
        killing = threading.Timer(0.3, owner.kill)
        killing.start()
        ImageFiles(root).close()
        killing.join()
    assert owner.returncode == -signal.SIGKILL


def test_a_folder_that_could_not_be_opened_is_left_free(tmp_path, monkeypatch):
    """An owner that fails while it opens the folder does not keep the next attempt out."""
    root = tmp_path / "ssd"
    (root / "half.tmp").mkdir(parents=True)
    assert code(ImageFiles, root) == "STO005"
    (root / "half.tmp").rmdir()
    monkeypatch.setattr("actors.lm.disk.LOCK_WAIT_S", 0.0)
    ImageFiles(root).close()


def test_what_is_set_aside_counts_until_it_is_given_back(tmp_path):
    """A source on its way leaves no room for an image; one that lies there counts though nobody waits."""
    files = ImageFiles(tmp_path / "ssd", budget=8000)
    files.reserve("critic-3fa9c1d2b0aa", 4000)
    assert files.fetching() == {"critic-3fa9c1d2b0aa": 4000}
    assert code(files.put, ITEM, IMAGE, DIGEST) == "STO003"
    (files.sources / "critic-3fa9c1d2b0aa").mkdir(parents=True)
    (files.sources / "critic-3fa9c1d2b0aa" / "weights.part").write_bytes(bytes(3500))
    files.release("critic-3fa9c1d2b0aa")
    assert code(files.put, ITEM, IMAGE, DIGEST) == "STO003"
    files.forget_source("critic-3fa9c1d2b0aa")
    files.put(ITEM, IMAGE, DIGEST)
    assert files.fetching() == {}


def test_a_later_reservation_replaces_the_first(tmp_path):
    """A fetch that learns the whole size needs the difference only; one that does not fit changes nothing."""
    files = ImageFiles(tmp_path / "ssd", budget=8000)
    files.reserve("critic-1", 5000)
    files.reserve("critic-1", 8000)
    with pytest.raises(WorldError, match="critic-1"):
        files.reserve("critic-1", 8001)
    assert files.fetching() == {"critic-1": 8000}


def test_two_images_at_once_do_not_take_the_same_room(tmp_path):
    """Of two puts that fit only one by one, the second is refused while the first is being written."""
    files = ImageFiles(tmp_path / "ssd", budget=8000)
    files.reserve(ITEM, IMAGE.nbytes)
    assert code(files.put, "other@1", IMAGE, DIGEST) == "STO003"
    assert files.fetching() == {}


def test_half_a_copy_of_a_source_is_removed_at_open(files):
    """A copy that a crash cut off is gone, what was fetched so far stays to be gone on with."""
    for name in ("critic-1.tmp", "coder-2"):
        (files.sources / name).mkdir(parents=True)
    assert [folder.name for folder in opened_again(files).sources.iterdir()] == ["coder-2"]


def opened_reads(monkeypatch):
    """The items whose files are read from now on, in order."""
    read = []
    fromfile = np.fromfile
    monkeypatch.setattr(
        np, "fromfile", lambda file, *rest: (read.append(Path(file).stem), fromfile(file, *rest))[1]
    )
    return read


def test_a_file_that_was_verified_is_offered_without_being_read(files, monkeypatch):
    """Neither after its put nor in a new process is it hashed once more."""
    read = opened_reads(monkeypatch)
    path, told = files.verified(ITEM)
    assert (path, told.digest) == (files.root / f"{ITEM}.safetensors", DIGEST)
    assert opened_again(files).verified(ITEM) == (path, told)
    assert read == []


def test_a_file_that_was_touched_is_read_again_once(files, monkeypatch):
    """Another time of change makes it hashed; what was found holds for the next offer."""
    read = opened_reads(monkeypatch)
    os.utime(files.root / f"{ITEM}.safetensors", (1, 1))
    _, told = files.verified(ITEM)
    assert (read, told.verified.mtime_ns) == ([ITEM], 1_000_000_000)
    files.verified(ITEM)
    assert read == [ITEM]


def test_a_file_that_was_rewritten_is_not_offered(files):
    """Other bytes of the same size give STO002, and the evidence is kept."""
    (files.root / f"{ITEM}.safetensors").write_bytes(bytes(5000))
    assert code(files.verified, ITEM) == "STO002"
    assert code(files.verified, ITEM) == "STO001"


def test_a_sidecar_of_before_has_its_image_hashed_once(files, monkeypatch):
    """What an older release wrote beside an image says nothing of a check: the first offer makes one."""
    (files.root / f"{ITEM}.json").write_text(json.dumps({"item": ITEM, "nbytes": 5000, "digest": DIGEST}))
    read = opened_reads(monkeypatch)
    for _ in range(2):
        assert files.verified(ITEM)[1].digest == DIGEST
    assert read == [ITEM]


def flipped(files, item):
    """Flip a bit of an image in a way that its time, size and inode do not tell."""
    file = files.root / f"{item}.safetensors"
    before = file.stat()
    with file.open("r+b") as stream:
        os.pwrite(stream.fileno(), bytes([os.pread(stream.fileno(), 1, 1234)[0] ^ 1]), 1234)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_scrubbing_finds_a_bit_that_flipped_in_silence(files):
    """Time and size as they were, so it would be offered; the scrub sets it aside and says why."""
    flipped(files, ITEM)
    assert files.verified(ITEM)
    item, why = files.scrub_next(lambda _: None, time.time() + 1)
    assert item == ITEM
    assert DIGEST[:12] in why
    assert files.inventory() == {}
    assert len(list(files.quarantine.iterdir())) == 2


def test_scrubbing_goes_round(files):
    """The image whose check is longest ago comes first, and none before its time."""
    files.put("other@1", IMAGE, DIGEST)
    began_s = time.time()
    assert files.scrub_next(lambda _: None, began_s) is None
    first, second = (files.verified(item)[1].checked_s for item in (ITEM, "other@1"))
    assert first > began_s
    assert second < began_s
    assert files.scrub_next(lambda _: None, began_s) is None
    assert files.verified("other@1")[1].checked_s > first
    pieces = []
    files.scrub_next(pieces.append, began_s)
    assert pieces == []


def test_what_is_dropped_during_a_scrub_is_not_missed(files):
    """A drop between two pieces is no damage, and nothing comes back."""
    assert files.scrub_next(lambda _: files.drop(ITEM), time.time() + 1) is None
    assert (files.inventory(), list(files.quarantine.iterdir())) == ({}, [])


def test_proofs_stay_with_the_image(files):
    """They outlive the process, count once, and end with the bytes that they were made of."""
    for key in ("engine a", "engine b", "engine a"):
        files.prove(ITEM, DIGEST, key)
    files.prove(ITEM, "0" * 64, "engine c")
    files.prove("other@1", DIGEST, "engine c")
    again = opened_again(files)
    assert again.verified(ITEM)[1].proven == again.proven(ITEM, DIGEST) == ("engine a", "engine b")
    other = IMAGE[::-1].copy()
    again.put(ITEM, other, image_digest(other))
    assert again.verified(ITEM)[1].proven == ()


def test_of_many_proofs_the_latest_are_kept(files):
    """A sidecar does not grow without end."""
    for number in range(100):
        files.prove(ITEM, DIGEST, f"engine {number}")
    assert files.proven(ITEM, DIGEST)[-1] == "engine 99"
    assert len(files.proven(ITEM, DIGEST)) == PROOFS
