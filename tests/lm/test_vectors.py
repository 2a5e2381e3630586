"""Vectors held on a device: exact, in batches, and gone when told."""

import asyncio
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.lm import vectors as held_vectors
from actors.lm.request import HeldUse
from actors.lm.vectors import Held
from placement.errors import WorldError

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["cpu", "cuda"])
def device(request) -> torch.device:
    """The CPU, and a GPU where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    return torch.device(request.param)


def units(rows: int, dim: int = 24, seed: int = 0) -> np.ndarray:
    """Random unit vectors."""
    drawn = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


async def test_the_rows_found_are_those_of_an_exact_search(device):
    """Rows and scores are those that numpy finds, best first."""
    matrix, questions = units(500), units(5, seed=1)
    held = Held.load(matrix, device, 1)
    for question in questions:
        found = await held.search(question, 7)
        scores = matrix @ question
        assert [row for row, _ in found] == np.argsort(-scores)[:7].tolist()
        assert [score for _, score in found] == pytest.approx(np.sort(scores)[::-1][:7].tolist(), abs=1e-5)


async def test_what_is_asked_meanwhile_shares_one_product(monkeypatch):
    """Forty questions at once take three products at most, and each gets its own answer and count."""
    products = []
    original = Held._rows  # noqa: SLF001 -- counted, not replaced

    def counted(self, batch):
        products.append(len(batch))
        return original(self, batch)

    monkeypatch.setattr(Held, "_rows", counted)
    matrix = units(100)
    held = Held.load(matrix, CPU, 1)
    found = await asyncio.gather(*(held.search(matrix[n], n % 3 + 1) for n in range(40)))
    assert [rows[0][0] for rows in found] == list(range(40))
    assert [len(rows) for rows in found] == [n % 3 + 1 for n in range(40)]
    assert sum(products) == 40
    assert len(products) <= 3
    assert (held.use.hits, held.use.leases, held.use.nbytes) == (40, 0, matrix.nbytes)


async def test_a_question_that_was_given_up_keeps_no_other_waiting():
    """A cancelled search gives its lease back; those beside it are answered."""
    held = Held.load(units(10), CPU, 1)
    gone, stays = (asyncio.create_task(held.search(units(1)[0], 1)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await stays)[0][0] == 0
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert held.use.leases == 0


async def test_an_empty_shard_answers_nothing():
    """No rows, no results; more wanted than there are gives all there are."""
    assert await Held.load(np.empty((0, 24), dtype=np.float32), CPU, 1).search(units(1)[0], 3) == []
    assert len(await Held.load(units(2), CPU, 1).search(units(1)[0], 3)) == 2


async def test_a_vector_of_another_dimension_is_an_error_of_its_caller():
    """What cannot be multiplied fails for who asked, and the next search is answered."""
    held = Held.load(units(10), CPU, 1)
    with pytest.raises(RuntimeError):
        await held.search(units(1, dim=5)[0], 1)
    assert await held.search(units(1)[0], 1)


def test_a_device_without_room_is_told_with_the_bytes(monkeypatch):
    """Out of memory is LM012, with how much was wanted and what to lower."""

    def full(*_args, **_kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(held_vectors.torch, "tensor", full)
    with pytest.raises(WorldError, match="10 vectors") as caught:
        Held.load(units(10), CPU, 1)
    assert caught.value.code == "LM012"


async def test_the_vectors_given_are_copied():
    """The array that they came in may go, or change, afterwards; it may be read-only."""
    matrix = units(10)
    matrix.setflags(write=False)
    held = Held.load(matrix, CPU, 1)
    matrix.setflags(write=True)
    matrix[:] = 0
    assert (await held.search(units(10)[3], 1))[0] == (3, pytest.approx(1.0, abs=1e-5))


def test_who_reads_an_engines_report_needs_no_torch():
    """The coordinator unpickles what an engine holds each second, and must not load torch for it."""
    report = pickle.dumps(HeldUse(1536, 3, 0.5, 1))
    code = "import pickle, sys; pickle.load(sys.stdin.buffer); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], input=report, check=True, capture_output=True, cwd=ROOT
    )
    assert done.stdout.strip() == b"False"
