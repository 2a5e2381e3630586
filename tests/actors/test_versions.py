"""Versions of a role at home on the network: which one is fetched, tried, replaced, looked at and shown."""

import asyncio
from types import SimpleNamespace

import pytest

from actors import renewal
from actors.applying import Applying
from actors.cast import Cast
from actors.census import Census
from actors.describing import find
from actors.journal import Failure, Journal
from actors.muster import role_spec
from actors.spec import spec_of
from actors.versions import Versions
from placement.errors import UserError, WorldError
from placement.machine import Machine
from placement.messages import (
    Beat,
    Copied,
    Copy,
    CopyFailed,
    Drop,
    Dropped,
    NodeJoined,
    Removed,
    Tick,
    Wanted,
)
from placement.state import Item, Limits, Place, Room
from placement.tiers import Tier

FILE = """
lab: far
nodes: {desk: {vram: 64MiB, ram: 64MiB, ssd: {path: /ssd, budget: 1GiB}}}
bases: {small: {model: ./base, device: cpu, kv_cache: 8MiB}}
roles:
  far: {lora_path: "http://example.test/far/", location: network, persona: You think.}
"""
VRAM, RAM, SSD = Place("desk", Tier.VRAM, "cpu"), Place("desk", Tier.RAM), Place("desk", Tier.SSD)


class Lab:
    """A Machine and a journal, as a coordinator has them; what it ordered is done when `done` says so."""

    def __init__(self, journal, root):
        self.journal = journal
        self.machine = Machine(Limits(), 1)
        self.crew = Cast(spec_of(FILE, file="cluster.yaml", root=str(root), home=str(root), env={}))
        self.crew.here, self.crew.engine_places = ("desk",), {"small": VRAM}
        self.commands, self.census = [], Census()
        rooms = {VRAM: Room(10**8, 0, {"small": 2}), RAM: Room(10**8), SSD: Room(10**9)}
        self.take(NodeJoined("desk", rooms))
        self.take(Beat("desk", 0.0, {place: {} for place in rooms}))
        self.changing = asyncio.Lock()
        self.waits, self.turns = asyncio.Event(), asyncio.Event()

    def brain(self):
        return self.machine, self.crew

    def take(self, event):
        self.commands += self.machine.handle(event, 0.0)

    async def opened(self):
        return self.brain()

    async def ps(self):
        return SimpleNamespace(thing=lambda name: name)

    async def until(self, true, _within_s):
        self.waits.set()
        await self.turns.wait()
        return true()

    def done(self):
        """Let all drops that were ordered come to their end."""
        while drops := [command for command in self.commands if isinstance(command, Drop)]:
            self.commands = []
            for drop in drops:
                self.take(Dropped(drop.op))
            self.take(Tick())
        self.turns.set()


class Reading(Versions):
    """Versions whose store reads the items of a list, one after another."""

    def __init__(self, lab, *items):
        super().__init__(lab, lambda _: None)
        self.items = list(items)

    async def _read(self, _origin, _node):
        found = SimpleNamespace(warnings=(), digest="d", image_digest="i", nbytes=1000, rank=4, modules=7)
        return self.items.pop(0), found, SimpleNamespace(how="at its address")


@pytest.fixture
def lab(tmp_path):
    """A lab with an empty journal."""
    journal = Journal.open(tmp_path / "journal.db")
    yield Lab(journal, tmp_path)
    journal.close()


async def fetched(versions):
    """Fetch the role, as its first ask does; return the item."""
    version = await versions.prepare("far")
    versions.register(version, fetched=True)
    return Item(version.item)


def given_up(lab, item):
    """Have the item of a version fail for good in its engine."""
    lab.take(Wanted("w", item, 30.0))
    while not any(setback.permanent for setback in lab.machine.state.backoff.values()):
        copy = next(command for command in lab.commands if isinstance(command, Copy))
        lab.commands.remove(copy)
        failed = CopyFailed(copy.op, "ADP037", "it has no effect", permanent=True)
        lab.take(failed if copy.target == VRAM else Copied(copy.op, 1000, 0.1))


async def test_what_was_ordered_of_a_version_at_an_address_holds_for_the_one_that_replaces_it(lab):
    """The one that failed for good is given up at `up`, and the next ask fetches another."""
    versions = Reading(lab, "far@1", "far@2")
    item = await fetched(versions)
    lab.journal.order(item, "pin", True)
    lab.journal.order(item, "home", ["desk", "RAM", ""])
    given_up(lab, item)
    assert await versions.of(["far"], {}) == {}
    assert versions.given_up == {"far": item}
    lab.take(Removed(item))
    second = await fetched(versions)
    assert (second, lab.machine.state.home(second)) == ("far@2", RAM)
    assert lab.machine.state.pinned(second)
    assert {ordered for ordered, _, _ in lab.journal.orders()} == {second}


async def test_a_version_that_comes_back_while_it_is_removed_is_taken_in_once_it_is_gone(lab):
    """The address gives the same bytes again: the journal and the Machine know the same in the end."""
    versions = Reading(lab, "far@1", "far@1", "far@1")
    item = await fetched(versions)
    lab.journal.forget_version("far")
    lab.take(Removed(item))
    assert item in lab.machine.state.retired
    again = asyncio.create_task(fetched(versions))
    await lab.waits.wait()
    assert lab.journal.versions() == []
    lab.done()
    assert await again == item
    assert item in lab.machine.state.items
    assert item not in lab.machine.state.retired
    assert [version.item for version in lab.journal.versions()] == [item]


async def test_a_version_that_is_being_removed_is_not_taken_for_one_that_is_known(lab):
    """It will be forgotten, so whoever registers it hears of that."""
    versions = Reading(lab, "far@1")
    version = await versions.prepare("far")
    versions.register(version, fetched=True)
    lab.take(Removed(Item(version.item)))
    with pytest.raises(WorldError, match="TRC025"):
        versions.register(version, fetched=True)


async def test_a_directory_that_vanishes_while_it_is_looked_at_tells_nothing(lab):
    """Whoever plans goes on; the next look finds what took its place."""

    async def vanish(_path):
        raise UserError("STO005", "it is gone")

    versions = Reading(lab, "far@1")
    await fetched(versions)
    lab.crew.stores = {"desk": SimpleNamespace(present_digest=SimpleNamespace(remote=vanish))}
    assert await versions.outdated() == {}


async def test_the_version_that_serves_is_shown_while_another_one_is_tried(lab):
    """The one on trial is registered and not written down."""
    versions = Reading(lab, "far@1", "far@2")
    item = await fetched(versions)
    versions.register(await versions.read("far"), fetched=True)
    assert lab.machine.state.versions["far"] == "far@2"
    assert find(lab, "far") == ("far", item)
    assert find(lab, "far@2") == ("far", "far@2")


@pytest.mark.parametrize("failed", [False, True])
async def test_an_update_to_the_same_version_tries_it_again_only_where_its_role_had_failed(
    lab, monkeypatch, failed
):
    """Else there is nothing new."""
    tried = []

    async def succeed(_coordinator, version, before):
        tried.append((version.item, before))

    item = await fetched(Reading(lab, "far@1"))
    if failed:
        lab.journal.fail(Failure("far", "TRC031", "it did not come up", ""))
    monkeypatch.setattr(renewal, "Versions", lambda *_: Reading(lab, "far@1"))
    monkeypatch.setattr(renewal, "_succeed", succeed)
    assert (await renewal.renew(lab, "far")).after == "1"
    assert tried == ([(item, item)] if failed else [])


@pytest.mark.parametrize("served", [True, False])
async def test_an_apply_leaves_a_replaced_version_to_who_answers_with_it(lab, served):
    """One whose role has no version any more goes at once."""
    versions = Reading(lab, "far@1", "far@2")
    old = await fetched(versions)
    second = await versions.prepare("far")
    versions.register(second, fetched=True)
    made = SimpleNamespace(specs=[role_spec(lab.crew, second)], rooms={})
    if not served:
        lab.journal.forget_version("far")
    drawn = SimpleNamespace(plan=SimpleNamespace(changes=(), acts=()))
    Applying(lab, lab.crew.spec, drawn, lambda _: None).tell(made, leaving=True)
    assert (old in lab.machine.state.retired or old not in lab.machine.state.items) is not served
