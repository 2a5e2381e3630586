"""A Store without a cluster: what it takes in and what it reports need no Ray."""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from actors.errors import StaleEpoch
from actors.lm.image import image_digest
from actors.lm.image_file import opened
from actors.store import Origin, Store
from placement.errors import WorldError
from placement.tiers import Tier


@pytest.fixture
def origin(parts):
    """A role of the small lab."""
    return Origin("coder", str(parts / "coder"), str(parts / "base"), 8)


async def test_a_store_keeps_an_image_and_answers_without_its_bytes(tmp_path, origin):
    """The item is on the SSD tier, and what goes to the caller is a description."""
    store = Store("desk", str(tmp_path / "ssd"), None)
    item, prepared, kept = await store.prepare(origin)
    report = await store.beat()
    assert report.ssd == {item: prepared.nbytes}
    assert (prepared.image.nbytes, kept.how in {"in place", "copied"}) == (0, True)
    assert (report.fetching, report.started, report.pid) == ({}, True, os.getpid())


async def test_a_store_measures_its_tiers(tmp_path):
    """RAM by the machine and, if its size is known, the object store; SSD by the disk; unstarted, too."""
    report = await Store("desk", str(tmp_path / "ssd"), None, store_capacity=1000).beat()
    assert {gauge.source for gauge in report.gauges[Tier.RAM]} >= {"psutil", "object store"}
    assert [gauge.source for gauge in report.gauges[Tier.SSD]] == ["statvfs"]
    unknown = await Store("desk", str(tmp_path / "ssd"), None).beat()
    assert "object store" not in {gauge.source for gauge in unknown.gauges[Tier.RAM]}


async def kept(tmp_path, origin):
    """A Store with one image on its SSD tier; return it with the item and what is told of it."""
    store = Store("desk", str(tmp_path / "ssd"), None)
    item, prepared, _ = await store.prepare(origin)
    return store, item, prepared


async def test_a_store_follows_no_older_coordinator(tmp_path, origin):
    """Whatever an epoch that has passed commands is refused, and nothing has changed."""
    store, item, prepared = await kept(tmp_path, origin)
    digest = prepared.image_digest
    offer = await store.offer(item, Tier.SSD, digest, origin, 3, to="desk")
    commands = (
        store.fetch("coder@1", origin, "1", 2),
        store.offer(item, Tier.SSD, digest, origin, 2),
        store.prove(item, digest, "engine a", 2),
        store.mend(item, origin, 2),
        store.pull("coder@2", Tier.SSD, offer, 2),
        store.drop(item, Tier.SSD, 2),
    )
    for command in commands:
        with pytest.raises(StaleEpoch):
            await command
    assert (await store.beat()).ssd == {item: prepared.nbytes}
    assert (await store.offer(item, Tier.SSD, digest, origin, 3, to="desk")).proven == ()


async def test_what_is_commanded_twice_is_done_once(tmp_path, origin):
    """A command that came twice, or is given again after a restart, ends as the first one did."""
    store, item, prepared = await kept(tmp_path, origin)
    offer = await store.offer(item, Tier.SSD, prepared.image_digest, origin, 1, to="desk")
    other = Store("attic", str(tmp_path / "attic"), None)
    for _ in range(2):
        await other.pull(item, Tier.SSD, offer, 1)
        assert (await other.beat()).ssd == {item: prepared.nbytes}
    for epoch in (1, 2):
        await other.drop(item, Tier.SSD, epoch)
        assert (await other.beat()).ssd == {}


async def test_a_store_tells_which_version_a_directory_holds_now(tmp_path, origin):
    """Also after its files were written again; "" where there is none, and for an address."""
    folder = tmp_path / "adapter"
    shutil.copytree(origin.lora_path, folder)
    store = Store("desk", str(tmp_path / "ssd"), None)
    item, prepared, _ = await store.prepare(replace(origin, lora_path=str(folder)))
    assert await store.present_digest(str(folder)) == prepared.digest
    config = folder / "adapter_config.json"
    config.write_text(config.read_text() + "\n")
    changed = await store.present_digest(str(folder))
    assert changed not in {"", prepared.digest}
    again, _, _ = await store.prepare(replace(origin, lora_path=str(folder)))
    assert again == f"coder@{changed[:12]}" != item
    config.unlink()
    assert await store.present_digest(str(folder)) == ""
    assert await store.present_digest("org/adapter") == ""


async def test_who_is_on_the_same_node_is_offered_the_file(tmp_path, origin):
    """No bytes go through the object store: a path, by what it is known again, and who has proven it."""
    store, item, prepared = await kept(tmp_path, origin)
    await store.prove(item, prepared.image_digest, "engine a", 1)
    offer = await store.offer(item, Tier.SSD, prepared.image_digest, origin, 1, to="desk")
    assert (offer.refs, offer.nbytes, offer.proven) == ([], prepared.nbytes, ("engine a",))
    with opened(Path(offer.path), offer.stamp) as image:
        assert image_digest(image) == prepared.image_digest


async def test_a_file_that_was_rewritten_is_built_again_before_it_is_offered(tmp_path, origin):
    """Its stamp is another, so it is hashed: what was proven of the old file does not hold for the new."""
    store, item, prepared = await kept(tmp_path, origin)
    await store.prove(item, prepared.image_digest, "engine a", 1)
    (tmp_path / "ssd" / f"{item}.safetensors").write_bytes(bytes(prepared.nbytes))
    offer = await store.offer(item, Tier.SSD, prepared.image_digest, origin, 1, to="desk")
    assert "STO002" in offer.mended
    assert offer.proven == ()
    with opened(Path(offer.path), offer.stamp) as image:
        assert image_digest(image) == prepared.image_digest


async def test_a_scrub_that_finds_damage_is_told_by_the_beats_until_it_is_mended(tmp_path, origin):
    """A bit that flipped behind an unchanged time takes the file out; once it is built again all is well."""
    store, item, prepared = await kept(tmp_path, origin)
    file = tmp_path / "ssd" / f"{item}.safetensors"
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    with file.open("r+b") as stream:
        stream.write(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    await store.scrub(time.time() + 1)
    report = await store.beat()
    assert (report.ssd, list(report.damaged)) == ({}, [item])
    assert prepared.image_digest[:12] in report.damaged[item]
    await store.mend(item, origin, 1)
    report = await store.beat()
    assert (report.ssd, report.damaged) == ({item: prepared.nbytes}, {})


async def test_a_file_is_taken_in_by_another_tier(tmp_path, origin):
    """A Store takes an offered file into its SSD tier as it takes bytes: verified."""
    store, item, prepared = await kept(tmp_path, origin)
    offer = await store.offer(item, Tier.SSD, prepared.image_digest, origin, 1, to="desk")
    other = Store("desk", str(tmp_path / "other"), None)
    await other.pull(item, Tier.SSD, offer, 1)
    assert (await other.beat()).ssd == {item: prepared.nbytes}
    with pytest.raises(WorldError, match="digest"):
        await other.pull("coder@2", Tier.SSD, replace(offer, digest="0" * 64), 1)
