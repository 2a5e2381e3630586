"""What the actors' reports come to: a stalled engine is named, and what shadows take is counted."""

from types import SimpleNamespace

from actors.census import Census, beat, listing
from actors.engine import Decoding
from actors.lm.request import SlotUse
from actors.lm.stats import STALLED_S, Stats
from placement.machine import Machine
from placement.state import Limits, Place
from placement.tiers import Tier

VRAM = Place("desk", Tier.VRAM, "cpu")


def stats(stalled_s=0.0, shadow_nbytes=0):
    """A decoder at a moment, with three that answer or read and two that wait."""
    return Stats(
        running=3,
        reading=1,
        waiting={"coder@1": 2},
        steps=9,
        tokens=20,
        tokens_per_s=41.26,
        step_s=0.01,
        decode_p50_s=0.012,
        decode_p99_s=0.02,
        stalled_s=stalled_s,
        kv_rows=1000,
        kv_rows_used=120,
        kv_rows_kept=40,
        prefix_hits=1,
        prefix_tokens=64,
        slots=4,
        seats={"coder@1": "open"},
        shadow_nbytes=shadow_nbytes,
        kernels={"a": "torch", "b": "fbgemm", "c": "fbgemm"},
        row_kernels={1: "mm"},
        measured="measured",
    )


def decoding(**more):
    """The report of an engine on a CPU."""
    sizes = {"base_nbytes": 1, "kv_nbytes": 1, "slot_nbytes": 100, "room": 1000}
    return Decoding(
        pid=7,
        rss=1 << 20,
        started=True,
        device="cpu",
        **sizes,
        **({"slots": {}, "closing": frozenset()} | more),
    )


def crew():
    """A lab of one engine, and its coordinator, on one node."""
    return SimpleNamespace(
        lab=SimpleNamespace(name="lab", roles={}, rag={}),
        engine_places={"small": VRAM},
        everyone=lambda: ["engine:small"],
        where=lambda _: "desk",
    )


def member(report):
    """The row of the engine in `ps`."""
    journal = SimpleNamespace(failures=list, activations=list, versions=list)
    told = listing(crew(), Census(engines={"small": report}), Machine(Limits(), 1), journal, 0.0)
    return told.members[1]


def test_an_engine_tells_what_it_does():
    """Who answers, reads and waits, how fast, and how much of its room is taken."""
    told = member(decoding(stats=stats()))
    assert told.state == "running"
    assert told.doing == (
        "2 answer, 1 read, 2 wait; 41.3 tokens/s; step 12 ms; KV 120 + 40 kept of 1000 tokens; slots 1/4; "
        "kernels fbgemm 2, torch 1; of slots mm 1; they were measured"
    )


def test_an_engine_tells_what_shadows_take():
    """Beside their slots, if they take anything."""
    assert "slots 1/4; 3.0 MiB beside them;" in member(decoding(stats=stats(shadow_nbytes=3 << 20))).doing


def test_an_engine_that_has_work_and_does_not_move_is_called_stalled():
    """Its state says so, and the first words say for how long; a moment without a move is none."""
    told = member(decoding(stats=stats(34.0)))
    assert told.state == "stalled"
    assert told.doing.startswith("has work and has not moved for 34")
    assert member(decoding(stats=stats(STALLED_S / 2))).state == "running"


def test_an_engine_that_does_not_answer_is_silent():
    """Nothing is told of what it does."""
    told = member(None)
    assert (told.state, told.doing) == ("silent", "")


def test_what_shadows_take_beyond_their_images_takes_room():
    """The ledger knows images; what PEFT's trees have more is told beside them, if it is more."""
    items = {"coder@1": SimpleNamespace(nbytes=300), "critic@1": SimpleNamespace(nbytes=50)}
    rooms = {VRAM: SimpleNamespace(budget=1000)}
    use = {"coder@1": SlotUse(0, 0.0, 0, 1, 1000), "critic@1": SlotUse(0, 0.0, 0, 1, 0)}
    state = SimpleNamespace(items=items, rooms=rooms, replicas={})
    news = beat(crew(), Census(engines={"small": decoding(slots=use)}), state, "desk", 1.0)
    assert {item: seen.nbytes for item, seen in news.places[VRAM].items()} == {
        "coder@1": 100,
        "critic@1": 100,
        "shadows of small": 700,
    }


def test_a_beat_shows_uses_since_the_item_came_and_ps_all_of_them():
    """An engine counts over its life, and anew in its next one."""
    state = SimpleNamespace(items={}, rooms={VRAM: SimpleNamespace(budget=1000)}, replicas={})
    census = Census()
    for hits, earlier in ((5, 0), (9, 7), (2, 0)):
        report = decoding(slots={"coder@1": SlotUse(0, 0.0, hits, 1, 0, earlier)})
        census.engines = {"small": report}
        census.count()
        news = beat(crew(), census, state, "desk", 1.0)
        assert news.places[VRAM]["coder@1"].hits == hits - earlier
    assert census.hits["coder@1"] == 11
