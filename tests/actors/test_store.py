"""A Store without a cluster: what it takes in and what it reports need no Ray."""

import os

import pytest

from actors.errors import StaleEpoch
from actors.store import Origin, Store
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


async def test_an_older_coordinator_fetches_nothing(tmp_path, origin):
    """A fetch of before a newer epoch is refused."""
    store = Store("desk", str(tmp_path / "ssd"), None)
    store.fence(3)
    with pytest.raises(StaleEpoch):
        await store.fetch("coder@1", origin, "1", 2)
