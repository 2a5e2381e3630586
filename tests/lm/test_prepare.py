"""prepare(): one call in a child process, without torch."""

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from actors.lm.header import AdapterError
from actors.lm.image import image_digest, read_image
from actors.lm.prepare import prepare

ROOT = Path(__file__).resolve().parents[2]


def test_prepare_runs_in_a_child_and_its_errors_come_back_whole(world, damaged):
    """The image crosses the process border with its digest, and so does a typed error with its code."""
    (damaged / "adapter_model.safetensors").write_bytes(b"")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        prepared = pool.submit(prepare, str(world.adapters["plain"]), str(world.base), 16).result()
        failed = pool.submit(prepare, str(damaged), str(world.base), 16).exception()
    assert image_digest(prepared.image) == prepared.image_digest
    assert read_image(prepared.image).digest == prepared.digest
    assert (prepared.rank, prepared.modules, prepared.nbytes) == (8, 14, prepared.image.nbytes)
    assert isinstance(failed, AdapterError)
    assert failed.code == "ADP006"


def test_preparing_again_gives_the_same_image(world):
    """Digest and bytes depend on the adapter only."""
    first, second = (prepare(str(world.adapters["head"]), str(world.base), 16) for _ in range(2))
    assert first.digest == second.digest
    assert np.array_equal(first.image, second.image)


@pytest.mark.parametrize(
    "module", ["prepare", "adapter", "files", "image", "request", "chat", "seats", "source"]
)
def test_what_a_role_or_a_store_imports_loads_no_torch(module):
    """These modules start without torch, transformers or ray: a child process is quick, a Role is small."""
    heavy = "{'torch', 'transformers', 'peft', 'ray'}"
    check = f"import sys, actors.lm.{module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
