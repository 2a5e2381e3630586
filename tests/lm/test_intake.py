"""Taking adapters in: from a directory, from memory, from an address; and again, when the image is gone."""

import asyncio
import shutil
import threading
from dataclasses import replace

import pytest

from actors.intake import Intake, Origin
from actors.lm.base import base_shape
from actors.lm.files import ImageFiles
from actors.lm.header import AdapterError
from actors.lm.image import image_digest
from actors.lm.prepare import prepare
from actors.lm.source import Kept
from placement.errors import WorldError
from tests.lm.host import held, serving

CONFIG, WEIGHTS = "/lora/critic/adapter_config.json", "/lora/critic/adapter_model.safetensors"


@pytest.fixture
def files(tmp_path):
    """An empty SSD tier."""
    return ImageFiles(tmp_path / "ssd")


@pytest.fixture
def origin(world, tmp_path):
    """A role whose adapter lies in a directory of its own."""
    folder = shutil.copytree(world.adapters["plain"], tmp_path / "critic")
    return Origin("critic", str(folder), str(world.base), 16)


@pytest.fixture
def in_memory(monkeypatch, tmp_path):
    """Have the table of mounts say that the role's directory is in memory."""
    table = f"1 1 0:1 / / rw - ext4 none rw\n1 1 0:1 / {tmp_path}/critic rw - tmpfs none rw\n"
    monkeypatch.setattr("actors.lm.source.read_table", lambda: table)


@pytest.fixture
def on_disk(monkeypatch):
    """Have the table of mounts say that all is on a disk."""
    monkeypatch.setattr("actors.lm.source.read_table", lambda: "1 1 0:1 / / rw - ext4 none rw\n")


@pytest.fixture
def host(world):
    """A server with the adapter."""
    with serving() as host:
        publish(host, world.adapters["plain"])
        yield host


def publish(host, folder):
    """Let the server hold the adapter of a directory."""
    host.files[CONFIG] = (folder / "adapter_config.json").read_bytes()
    host.files[WEIGHTS] = (folder / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def remote(origin, host):
    """The role with its adapter at an address, with a password."""
    return replace(origin, lora_path=host.url.replace("//", "//anna:secret@") + "/lora/critic/")


def damage(files, item):
    """Cut the image of an item."""
    (files.root / f"{item}.safetensors").write_bytes(b"damaged")
    with pytest.raises(WorldError):
        files.get(item)


def leftovers(files):
    """What lies in the folder of sources."""
    return sorted(path.name for path in files.sources.glob("*"))


@pytest.mark.usefixtures("on_disk")
async def test_a_directory_on_a_disk_is_used_in_place(files, origin):
    """The image is derived from it and nothing is copied; what is told comes without bytes."""
    item, found, kept = await Intake(files).take(origin)
    expected = prepare(origin.lora_path, origin.base_path, 16)
    assert (item, kept) == (f"critic@{expected.digest[:12]}", Kept(origin.lora_path, "in place"))
    assert (found.nbytes, found.image.nbytes) == (expected.nbytes, 0)
    assert image_digest(files.get(item)) == found.image_digest == expected.image_digest
    assert leftovers(files) == []


@pytest.mark.usefixtures("in_memory")
async def test_a_directory_in_memory_is_copied_and_mends_the_image_later(files, origin):
    """The copy outlives the directory, the image is built again from it, and both go with the drop."""
    intake = Intake(files)
    item, found, kept = await intake.take(origin)
    assert (kept.how, leftovers(files)) == ("copied", [item.replace("@", "-")])
    shutil.rmtree(origin.lora_path)
    damage(files, item)
    await intake.mend(item, origin)
    assert image_digest(files.get(item)) == found.image_digest
    files.drop(item)
    assert (files.inventory(), leftovers(files)) == ({}, [])


@pytest.mark.usefixtures("in_memory")
async def test_a_damaged_copy_is_made_again(files, origin):
    """If the copy is broken and the directory is still there, both copy and image are renewed from it."""
    intake = Intake(files)
    item, _, kept = await intake.take(origin)
    (files.source(item) / "adapter_model.safetensors").write_bytes(b"damaged")
    damage(files, item)
    await intake.mend(item, origin)
    assert prepare(kept.path, origin.base_path, 16).image_digest == image_digest(files.get(item))


@pytest.mark.usefixtures("on_disk")
async def test_another_version_in_the_directory_mends_nothing(files, origin, world):
    """A damaged image is not replaced by the image of a newer version: ADP033 names both."""
    intake = Intake(files)
    item, _, _ = await intake.take(origin)
    shutil.copytree(world.adapters["rslora"], origin.lora_path, dirs_exist_ok=True)
    damage(files, item)
    with pytest.raises(AdapterError, match=item) as refused:
        await intake.mend(item, origin)
    assert refused.value.code == "ADP033"


async def test_a_url_gives_the_same_version_as_the_directory(files, remote, origin):
    """An item is its content, fetched or read; the source is removed when the image is kept."""
    item, found, kept = await Intake(files).take(remote)
    expected = prepare(origin.lora_path, origin.base_path, 16)
    assert (item, found.image_digest) == (f"critic@{expected.digest[:12]}", expected.image_digest)
    assert (kept.how, "secret" in kept.path) == ("fetched", False)
    assert (leftovers(files), files.fetching()) == ([], {})


async def test_an_image_that_is_here_is_not_fetched_again(files, host, remote):
    """A repeated order asks nothing of the address; after a drop, or damage, it does."""
    intake = Intake(files)
    item, found, _ = await intake.take(remote)
    again = await intake.fetch(item, remote, found.digest)
    assert (again.digest, again.image_digest, again.nbytes) == (
        found.digest,
        found.image_digest,
        found.nbytes,
    )
    assert len(host.asked(WEIGHTS, "Range")) == 1
    files.drop(item)
    await intake.fetch(item, remote, found.digest)
    damage(files, item)
    await intake.mend(item, remote)
    assert image_digest(files.get(item)) == found.image_digest
    assert len(host.asked(WEIGHTS, "Range")) == 3


async def test_an_address_that_gives_another_version_is_refused(files, host, remote, world):
    """What was recorded is what serves: ADP034, and neither image nor source of the other version stays."""
    intake = Intake(files)
    item, found, _ = await intake.take(remote)
    files.drop(item)
    publish(host, world.adapters["rslora"])
    for call in (intake.fetch(item, remote, found.digest), intake.mend(item, remote)):
        with pytest.raises(AdapterError, match=host.url) as refused:
            await call
        assert (refused.value.code, "secret" in str(refused.value)) == ("ADP034", False)
    assert (files.inventory(), leftovers(files), files.fetching()) == ({}, [], {})


class Watched(ImageFiles):
    """An SSD tier that says when room for more than a config is set aside."""

    def __init__(self, root):
        super().__init__(root)
        self.reserved = threading.Event()

    def reserve(self, name, nbytes):
        super().reserve(name, nbytes)
        if nbytes > 5000:
            self.reserved.set()


async def test_all_who_want_an_address_wait_for_one_fetch(tmp_path, host, remote):
    """Two orders at once, one of whose callers gives up, cost one download; meanwhile its room is shown."""
    files, until = Watched(tmp_path / "ssd"), threading.Event()
    intake = Intake(files)
    host.faults[WEIGHTS].append(held(until))
    first, second = (asyncio.ensure_future(intake.take(remote)) for _ in range(2))
    await asyncio.to_thread(files.reserved.wait, 30)
    assert list(files.fetching().values()) == [len(host.files[CONFIG]) + len(host.files[WEIGHTS])]
    first.cancel()
    until.set()
    item, _, _ = await second
    assert (list(files.inventory()), len(host.asked(WEIGHTS, "Range"))) == ([item], 1)


async def test_what_does_not_fit_the_budget_does_not_come(tmp_path, remote):
    """A size over the budget is STO003 with the numbers, and no weights are on the disk."""
    files = ImageFiles(tmp_path / "small", budget=20_000)
    with pytest.raises(WorldError, match="KiB") as refused:
        await Intake(files).take(remote)
    assert refused.value.code == "STO003"
    assert not list(files.sources.rglob("*.safetensors*"))
    assert files.fetching() == {}


async def test_a_broken_adapter_is_told_by_its_address(files, host, remote):
    """The error names the URL, not a folder of ours, and what is broken is not gone on with."""
    host.files[WEIGHTS] = b""
    with pytest.raises(AdapterError, match=host.url + WEIGHTS) as refused:
        await Intake(files).take(remote)
    assert (refused.value.code, leftovers(files)) == ("ADP006", [])
    assert str(files.root) not in refused.value.message


async def test_weights_no_slot_could_hold_are_refused_unread(files, host, remote):
    """The limit is that of the base: a file twice a slot's size is STO014 before a byte of it is stored."""
    limit = 2 * base_shape(remote.base_path).slot_nbytes(1)
    host.files[WEIGHTS] = bytes(limit + (5 << 20))
    with pytest.raises(Exception, match="at most") as refused:
        await Intake(files).take(replace(remote, max_rank=1))
    assert refused.value.code == "STO014"


@pytest.mark.usefixtures("on_disk")
async def test_a_node_without_the_base_checks_against_its_shape(files, origin):
    """The shape that the engine told gives the same version and image as the base's own files."""
    shape = replace(base_shape(origin.base_path), path="elsewhere")
    here = prepare(origin.lora_path, origin.base_path, 16)
    _, found, _ = await Intake(files).take(replace(origin, base_path="elsewhere", shape=shape))
    assert (found.image_digest, found.base) == (here.image_digest, here.base)


def test_a_repeated_weight_needs_the_base_s_files(world):
    """An adapter that repeats a weight of a base that is not here cannot be compared: ADP038 says so."""
    shape = replace(base_shape(str(world.base)), path="elsewhere")
    with pytest.raises(AdapterError, match="not on this node") as refused:
        prepare(str(world.adapters["head"]), "elsewhere", 16, shape)
    assert refused.value.code == "ADP038"
