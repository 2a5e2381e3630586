"""The index: what the engine does not check is checked before it."""

import errno
import os
import shutil

import numpy as np
import pytest

from actors.rag.index import Index, check_vectors, erase, guard_space
from actors.rag.lock import DirLock
from placement.errors import UserError, WorldError
from placement.tiers import Tier

IDS = [f"00000000-0000-0000-0000-{n:012d}" for n in range(500)]


def _vectors(n: int) -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((n, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("tier", [Tier.RAM, Tier.SSD])
def test_scores_are_exact_cosines_in_both_tiers(tmp_path, tier):
    """The order and the scores are those of the float32 vectors, sealed and quantised or not."""
    vectors = _vectors(500)
    index = Index.open(tmp_path, 8, tier)
    index.upsert(IDS[:450], vectors[:450], [{} for _ in range(450)])
    index.seal()
    index.upsert(IDS[450:], vectors[450:], [{} for _ in range(50)])
    query = _vectors(501)[500]
    cosines = vectors @ query
    best = np.argsort(-cosines)[:20]
    found = index.search(query, 20)
    assert [hit.id for hit in found] == [IDS[at] for at in best]
    np.testing.assert_allclose([hit.score for hit in found], cosines[best], atol=1e-6)
    index.close()


def test_the_ssd_tier_is_quantised_and_its_originals_are_cold(tmp_path):
    """A sealed index on SSD has int8 codes beside the original vectors; one in RAM has none."""
    for tier, codes in ((Tier.SSD, 1), (Tier.RAM, 0)):
        index = Index.open(tmp_path / tier.value, 8, tier)
        index.upsert(IDS, _vectors(500), [{} for _ in IDS])
        index.seal()
        index.close()
        assert len(list((tmp_path / tier.value).rglob("quantized.data"))) == codes
        assert not list((tmp_path / tier.value).rglob("wal"))


def test_an_index_has_one_owner(tmp_path):
    """A second opener is refused with the owner's process id, and welcome when the first is done."""
    index = Index.open(tmp_path, 8, Tier.RAM)
    with pytest.raises(WorldError, match=rf"is in use by process {os.getpid()}") as caught:
        DirLock.acquire(tmp_path)
    assert caught.value.code == "RAG005"
    index.close()
    Index.open(tmp_path, 8, Tier.RAM).close()


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    """A path that leads through a file is the user's error, with the path."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=f"{tmp_path / 'file' / 'index'} cannot be locked") as caught:
        DirLock.acquire(tmp_path / "file" / "index")
    assert caught.value.code == "RAG009"


def test_a_lock_that_a_full_disk_refused_is_free_again(tmp_path, monkeypatch):
    """When the owner's number cannot be written, the error says so, and the next attempt gets the lock."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(WorldError, match="No space left") as caught:
        DirLock.acquire(tmp_path)
    monkeypatch.undo()
    assert caught.value.code == "RAG003"
    DirLock.acquire(tmp_path).release()


def test_what_a_killed_seal_left_is_removed(tmp_path):
    """Opening deletes the engine's temporary segments."""
    Index.open(tmp_path, 8, Tier.RAM).close()
    (tmp_path / "shard" / "temp_segments" / "segment_builder_x").mkdir(parents=True)
    Index.open(tmp_path, 8, Tier.RAM).close()
    assert not (tmp_path / "shard" / "temp_segments").exists()


def test_a_write_that_would_fill_the_device_is_refused_with_numbers(tmp_path):
    """The engine dies of SIGBUS on a full device, so room is asked for first."""
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(WorldError, match=r"free; this write needs .* and must leave") as caught:
        guard_space(tmp_path, 2 * free)
    assert caught.value.code == "RAG003"
    guard_space(tmp_path, 1)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda v: v[:3], r"shape \[3, 8\] came for 4 texts of 8"),
        (lambda v: v[:, :7], r"shape \[4, 7\] came for 4 texts of 8"),
        (lambda v: np.where(np.arange(4)[:, None] == 2, np.nan, v), "vector 2 of 4 holds NaN"),
        (lambda v: v * (np.arange(4)[:, None] != 1), "vector 1 of 4 is zero"),
        (lambda _: [["x"]], "no array of numbers"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(spoil, says):
    """Too few vectors, a wrong dimension, NaN and zero are named with the row."""
    with pytest.raises(UserError, match=says) as caught:
        check_vectors(spoil(_vectors(4)), 4, 8)
    assert caught.value.code == "DOC020"


def test_only_an_index_is_erased(tmp_path):
    """A directory with anything that is no part of an index is left as it is."""
    (tmp_path / "thesis.tex").write_text("ten years")
    (tmp_path / "MANIFEST.json").write_text("{}")
    with pytest.raises(UserError, match=r"thesis\.tex") as caught:
        erase(tmp_path)
    assert caught.value.code == "RAG009"
    assert (tmp_path / "MANIFEST.json").exists()
