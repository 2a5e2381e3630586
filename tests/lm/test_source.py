"""Where an adapter is read from: the mount table decides, and a copy is whole and of one version."""

from pathlib import Path

import pytest

from actors.lm.adapter import read_adapter
from actors.lm.base import base_shape
from actors.lm.header import AdapterError
from actors.lm.mounts import file_system
from actors.lm.source import copy_source, folder_files, how_kept, slug
from placement.errors import UserError

TABLE = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw,size=24684092k
40 27 0:40 / /mnt/old rw - tmpfs tmpfs rw
41 27 8:1 / /mnt/old rw master:3 propagate_from:2 - xfs /dev/sda1 rw
42 27 0:41 / /mnt/ram\040disk rw - ramfs none rw
43 27 0:42 / /mnt/old/deep rw - tmpfs tmpfs rw
a line that is none
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/srv/lora/critic", "ext4"),
        ("/", "ext4"),
        ("/dev/shm", "tmpfs"),  # noqa: S108 -- a row of the table
        ("/dev/shm/critic", "tmpfs"),  # noqa: S108
        ("/dev/shmem/critic", "ext4"),  # noqa: S108
        ("/mnt/old/x", "xfs"),
        ("/mnt/old/deep/x", "tmpfs"),
        ("/mnt/ram disk/x", "ramfs"),
    ],
)
def test_the_longest_mount_point_holds_a_path(path, found):
    """Of two mounts on one point the later one counts; blanks are escaped; half a name is no match."""
    assert file_system(path, TABLE) == found


def test_without_a_table_nothing_is_known():
    """A system without one has no type for any path, and then no path is taken for volatile."""
    assert file_system("/srv", "") == ""


@pytest.fixture
def table(monkeypatch):
    """Let the table of mounts be one of the test's."""

    def use(*rows: str) -> None:
        text = "".join(f"1 1 0:1 / {point} rw - {kind} none rw\n" for point, kind in rows)
        monkeypatch.setattr("actors.lm.source.read_table", lambda: text)

    return use


def test_how_a_source_is_kept(table, tmp_path):
    """A directory on a disk stays in place, one in memory is copied, all else is an address."""
    table(("/", "ext4"), (str(tmp_path / "ram"), "tmpfs"))
    (tmp_path / "ram").mkdir()
    assert how_kept(str(tmp_path / "disk")) == "in place"
    assert how_kept(str(tmp_path / "ram" / "critic")) == "copied"
    assert how_kept("https://host/lora/critic/") == "fetched"
    assert how_kept("org/critic") == "fetched"
    assert how_kept("/what\0no path can be") == "in place"


def test_links_into_memory_count_as_memory(table, tmp_path):
    """A directory on a disk whose weights are a link to a file in memory would lose them with the power."""
    table(("/", "ext4"), (str(tmp_path / "ram"), "tmpfs"))
    (tmp_path / "ram").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "adapter_model.safetensors").symlink_to(tmp_path / "ram" / "weights")
    assert how_kept(str(tmp_path / "disk")) == "copied"


def test_this_machine_has_a_table():
    """On Linux the table is read, and the root is in it."""
    if not Path("/proc/self/mountinfo").exists():
        pytest.skip("no table of mounts on this system")
    assert how_kept("/") in {"in place", "copied"}


def test_a_copy_is_of_the_version_that_was_read(world, tmp_path):
    """The two files are copied byte for byte, and what is there is the version of the digest."""
    base = base_shape(str(world.base))
    digest = read_adapter(str(world.adapters["plain"]), base, max_rank=16).digest
    copy_source(str(world.adapters["plain"]), tmp_path / "copy", digest)
    assert read_adapter(str(tmp_path / "copy"), base, max_rank=16).digest == digest
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_source_that_changed_is_not_kept(damaged, tmp_path):
    """A copy of other bytes than were checked is ADP034, and nothing stays."""
    with pytest.raises(AdapterError) as refused:
        copy_source(str(damaged), tmp_path / "copies" / "copy", "0" * 64)
    assert refused.value.code == "ADP034"
    assert list((tmp_path / "copies").iterdir()) == []


def test_a_url_is_the_folder_of_two_files():
    """With or without a slash; a query goes along with each."""
    urls = [remote.url for remote in folder_files("https://host/lora/critic?sig=1", 9).values()]
    assert urls == [f"https://host/lora/critic/{file}?sig=1" for file in folder_files("https://host/x", 9)]
    with pytest.raises(UserError) as refused:
        folder_files("http://[::1", 9)
    assert refused.value.code == "STO019"


def test_each_address_of_a_role_has_a_folder_of_its_own():
    """What came from an old address is never gone on with from a new one."""
    assert slug("critic", "org/a") != slug("critic", "org/b")
    assert slug("critic", "org/a").startswith("critic-")
