"""An image on disk as an array: as fast as memory, and no fault of the file ends the process."""

import os
import subprocess
import sys

import numpy as np
import pytest

from actors.lm import image_file
from actors.lm.image import image_digest
from actors.lm.image_file import Stamp, digest_of, opened
from placement.errors import WorldError

BYTES = np.random.default_rng(0).integers(0, 256, 3 << 20, np.uint8)
CUT = "import sys, os; print('begun', flush=True); os.truncate(sys.argv[1], 10); print('done', flush=True)"


@pytest.fixture(params=["mapped", "read"])
def path(request, tmp_path, monkeypatch):
    """A file, where leases can be had and where they cannot."""
    if request.param == "read":
        monkeypatch.setattr(image_file, "_lease", lambda _: False)
    BYTES.tofile(tmp_path / "image")
    return tmp_path / "image"


def code(path, stamp=None):
    """The code of the error that opening gives."""
    with pytest.raises(WorldError) as raised, opened(path, stamp):
        pass
    return raised.value.code


def test_it_gives_the_bytes_of_the_file(path):
    """All of them, as they are, read only if they are the file itself."""
    with opened(path, Stamp.of(path)) as image:
        assert np.array_equal(image, BYTES)


def test_a_file_that_is_not_the_one_that_was_meant_is_refused(path):
    """Its stamp is compared before anything is read."""
    stamp = Stamp.of(path)
    os.utime(path, (1, 1))
    assert code(path, stamp) == "STO002"


def test_a_file_that_is_gone_is_a_typed_error(path):
    """Nothing there is STO001, and a folder is STO005."""
    assert code(path.with_name("nothing")) == "STO001"
    assert code(path.parent) == "STO005"


def test_an_empty_file_has_no_bytes(path):
    """A cut to nothing is an empty array and no crash."""
    os.truncate(path, 0)
    with opened(path) as image:
        assert image.size == 0


def test_a_file_that_is_cut_while_it_is_read_is_a_typed_error(path, monkeypatch):
    """Pages that are gone are an error and not a signal that ends the process."""
    lease = image_file._lease  # noqa: SLF001 -- the moment before the bytes are taken

    def late(descriptor):
        held = lease(descriptor)
        monkeypatch.setattr(Stamp, "of", classmethod(lambda cls, _: cls(0, BYTES.nbytes + 8192, 0)))
        return held

    monkeypatch.setattr(image_file, "_lease", late)
    assert code(path) == "STO005"


def test_nobody_cuts_a_file_that_is_in_use(tmp_path):
    """Whoever would cut it waits until it is given back; until then every byte is there."""
    path = tmp_path / "image"
    BYTES.tofile(path)
    with path.open("rb") as stream:
        if not image_file._lease(stream.fileno()):  # noqa: SLF001
            pytest.skip("this file system has no leases")
    with opened(path) as image:
        cutter = subprocess.Popen([sys.executable, "-c", CUT, str(path)], stdout=subprocess.PIPE)
        assert cutter.stdout.readline() == b"begun\n"
        with pytest.raises(subprocess.TimeoutExpired):
            cutter.wait(0.2)
        assert np.array_equal(image, BYTES)
    assert cutter.communicate(timeout=30)[0] == b"done\n"
    assert path.stat().st_size == 10


def test_a_digest_is_made_in_pieces(path):
    """It is that of the whole, and each piece is told to the pace."""
    told = []
    assert digest_of(path, told.append) == image_digest(BYTES)
    assert sum(told) == BYTES.nbytes
    assert max(told) <= 1 << 20
