"""Who is warmed ahead and who is sent away: by the file, by the clock, by order."""

import asyncio
from datetime import datetime
from types import SimpleNamespace

import pytest

from actors.ask import Stamp, admit
from actors.errors import NotAllowed
from actors.schedule import Schedule
from placement.config import load
from tests.waiting import until

FILE = """
lab: warmth
nodes:
  desk: {{vram: 64MiB, ram: 64MiB, ssd: {{path: {root}/ssd, budget: 1GiB}}}}
bases:
  small: {{model: {parts}/base, device: cpu, slots: 3, max_rank: 8, kv_cache: 8MiB}}
roles:
  philosopher: {{lora_path: {parts}/philosopher, location: SSD, warm: {{at_start: true}}, {says}}}
  coder: {{lora_path: {parts}/coder, location: RAM, {says}}}
  artist: {{lora_path: {parts}/artist, location: SSD, warm: {{after: [coder]}}, {says}}}
  reader: {{lora_path: {parts}/coder, location: SSD, rag: [war], unload: {{idle: 1500ms}}, {says}}}
rag:
  war: {{location: RAM, source: {parts}/war, unload: {{idle: 4s, to: SSD}}}}
"""
SAYS = "generation: {temperature: 0, max_tokens: 4}"
CLOCKED = """
bases: {small: {model: ./base}}
roles:
  early: {lora_path: ./a, location: SSD, warm: {at: "0 9 * * *"}}
  barred: {lora_path: ./b, location: SSD, warm: {at: "0 9 * * *"}, activated_by: [user]}
  late: {lora_path: ./c, location: RAM, unload: {at: "0 20 * * *", to: SSD}}
"""


@pytest.fixture(scope="module")
def lab(make_lab, folder_of, parts):
    """A lab in which one role is warm from the start, and one after another."""
    return make_lab("warmth", text=FILE.format(root=folder_of("warmth"), parts=parts, says=SAYS))


def tier_of(lab, name):
    """Return the highest tier that has a role now."""
    return lab.ps().thing(name).tier


@pytest.mark.ray
def test_a_role_that_is_warm_at_the_start_waits_in_vram(lab):
    """`warm: {at_start: true}` brings it up with the lab; its first ask finds it there."""
    until(lambda: tier_of(lab, "philosopher") == "VRAM(cpu)")
    assert lab.ask("philosopher", "Hello?").end.activation is None


@pytest.mark.ray
def test_a_role_that_is_warm_after_another_comes_up_once_that_is_asked(lab):
    """`warm: {after: [coder]}`: nobody asked the artist, and it waits in VRAM; its story says why."""
    assert tier_of(lab, "artist") == "SSD"
    lab.ask("coder", "Hello?")
    until(lambda: tier_of(lab, "artist") == "VRAM(cpu)")
    assert "coder was used" in " ".join(line.text for line in lab.story("artist"))


@pytest.mark.ray
def test_orders_bring_up_and_send_away(lab):
    """`unload` sends an item to where it rests at once, `warm` brings it up without an ask."""
    lab.warm("coder")
    until(lambda: tier_of(lab, "coder") == "VRAM(cpu)")
    assert lab.unload("coder").tier == "RAM"
    lab.warm("coder")
    until(lambda: tier_of(lab, "coder") == "VRAM(cpu)")
    assert lab.ask("coder", "Hello?").end.activation is None


@pytest.mark.ray
def test_an_idle_role_returns_to_its_home(lab):
    """A role at home on the SSD comes up on an ask, and leaves VRAM once it was idle for `unload.idle`."""
    assert lab.ask("reader", "Well?").end.activation.source == "SSD"
    assert tier_of(lab, "reader") == "VRAM(cpu)"
    until(lambda: lab.ps().thing("reader").copies == ("desk:SSD ready",))


@pytest.mark.ray
def test_who_may_not_activate_a_role_cannot_warm_it_either(lab):
    """An order to warm is an activation: `activated_by` holds for it, and the refusal names who may."""
    lab.update_role("reader", activated_by=["coder"])
    with pytest.raises(NotAllowed, match="reader may be activated by coder; not by 'user'"):
        lab.warm("reader")
    lab.update_role("reader", activated_by=None)


@pytest.mark.ray
def test_a_shard_is_unloaded_pinned_and_warmed_as_a_role_is(lab):
    """Idle it goes down, by an order or a search it comes home, pinned it stays; it answers all along."""
    until(lambda: tier_of(lab, "war") == "SSD")
    lab.warm("war")
    until(lambda: tier_of(lab, "war") == "RAM")
    until(lambda: tier_of(lab, "war") == "SSD")
    assert lab.ask("reader", "When did the wall fall?").citations[0].document == "war.md"
    until(lambda: tier_of(lab, "war") == "RAM")
    assert lab.pin("war").pinned
    assert lab.ps().thing("war").idle_until_s is None
    lab.unpin("war")
    assert lab.unload("war").tier == "SSD"


@pytest.mark.ray
def test_ps_says_how_full_the_memory_behind_each_place_is(lab):
    """RAM and disk are measured, the VRAM of a CPU is known by the ledger."""
    sources = {space.place: space.memory for space in lab.ps().spaces}
    assert "psutil" in sources["desk:RAM"] or "cgroup" in sources["desk:RAM"]
    assert "statvfs" in sources["desk:SSD"]
    assert "ledger" in sources["desk:VRAM(cpu)"]


class Desk:
    """What a schedule needs of a coordinator, written down in place of done."""

    def __init__(self):
        self.done = []
        self.facts = {}
        self.journal = SimpleNamespace(
            tell=lambda name, text, _at: self.done.append((name, text)),
            fact=self.facts.get,
            set_fact=self.facts.__setitem__,
        )
        self._crew = SimpleNamespace(lab=load(CLOCKED, {}))

    def brain(self):
        return None, self._crew

    def keep(self, work):
        asyncio.run(work)

    async def warm(self, name, caller, _cause, _within_s):
        admit(name, self._crew.lab.roles[name].activated_by, Stamp(caller))
        self.done.append(("warm", name))

    def item_named(self, name):
        return name

    def take(self, event):
        self.done.append((event.item, event.cause))


@pytest.mark.parametrize(
    ("before", "struck", "done"),
    [
        ("2026-11-27 08:58", "2026-11-27 08:59", []),
        (
            "2026-11-27 08:59",
            "2026-11-27 09:00",
            [
                ("warm", "early"),
                (
                    "barred",
                    "not warmed at '0 9 * * *': barred may be activated by user; not by 'schedule' [TRC002]",
                ),
            ],
        ),
        ("2026-11-27 19:00", "2026-11-27 20:00", [("late", "the schedule '0 20 * * *'")]),
    ],
)
def test_a_schedule_strikes_once_and_only_for_whom_it_may(before, struck, done):
    """What is due is ordered once; a role that does not let the schedule in is refused by name."""
    desk, schedule = Desk(), Schedule()
    schedule.strike(desk, datetime.fromisoformat(before).astimezone())
    desk.done.clear()
    now = datetime.fromisoformat(struck)
    schedule.strike(desk, now.astimezone())
    assert desk.done == done
    desk.done.clear()
    schedule.strike(desk, now.astimezone())
    assert desk.done == []


@pytest.mark.parametrize(("back", "done"), [("09:05", 2), ("09:30", 0)])
def test_what_was_due_while_nobody_watched_is_made_up_for_a_while(back, done):
    """A coordinator that was killed before nine and is back soon warms then; much later it does not."""
    desk = Desk()
    Schedule().strike(desk, datetime.fromisoformat("2026-11-27 08:59").astimezone())
    desk.done.clear()
    Schedule().strike(desk, datetime.fromisoformat(f"2026-11-27 {back}").astimezone())
    assert len(desk.done) == done
