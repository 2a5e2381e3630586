"""Why an item is where it is: one rule a test, told by the Machine's state and the story that it made."""

import json
import random
from dataclasses import asdict, dataclass, field

import pytest

from placement.machine import Machine
from placement.messages import (
    Beat,
    Copied,
    Copy,
    CopyFailed,
    Drop,
    Dropped,
    DropRefused,
    MoveOrdered,
    NodeLost,
    PinSet,
    Registered,
    Removed,
    Seen,
    Tick,
    UnloadOrdered,
    Wanted,
    WarmOrdered,
    describe,
)
from placement.simulate import simulate
from placement.state import NETWORK, Room
from placement.tale import Told, brought, left, ordered, outcome
from placement.why import ORDERED, lines, why
from tests.placement.brain_lab import (
    BRISK,
    DESK,
    LOG,
    MIB,
    RAM,
    SSD,
    VRAM,
    Lab,
    remote,
    role,
    shard,
    whole_scene,
)

A, B, C = role("a"), role("b"), role("c")


@dataclass
class Storied(Lab):
    """A lab that keeps the stories of its items as a coordinator's journal does: (when, item, text)."""

    told_s: list = field(default_factory=list)

    def tell(self, event):
        op = self.state.ops.get(getattr(event, "op", ""))
        if op is not None:
            self.told_s.append((self.now_s, op.command.item, outcome(op.command, event)))
        commands = super().tell(event)
        self.told_s += [(self.now_s, item, text) for item, text in self.machine.news]
        begun = [each for each in commands if isinstance(each, Copy | Drop)]
        self.told_s += [(self.now_s, each.item, describe(each)) for each in begun]
        return commands

    def ask(self, spec, by="the user"):
        """Bring an item up for somebody, at once; return what was commanded first."""
        self.told += 1
        commands = self.tell(Wanted(f"w{self.told}", spec.item, self.now_s + 30.0, by))
        self.do(commands)
        return commands

    def why(self, spec, home_by="the file"):
        story = [Told(self.now_s - at_s, text) for at_s, item, text in self.told_s if item == spec.item]
        return why(self.state, spec.item, self.now_s, self.limits, story, home_by)

    def here(self, spec, place, home_by="the file"):
        return next(here for here in self.why(spec, home_by).here if here.place == str(place))


def lab_of(*specs, **kwargs):
    """Return a lab in which these are registered and at home."""
    lab = Storied(**kwargs).join()
    lab.do(lab.register(*specs))
    return lab


def seated(*specs):
    """Return a lab with two seats in which these were asked for by the user, five seconds apart."""
    lab = lab_of(A, B, C)
    for spec in specs:
        lab.ask(spec)
        lab.now_s += 5.0
    return lab


def test_a_home_is_by_the_file():
    """It rests there, so no time takes it away."""
    here = lab_of(role("a", RAM)).here(role("a"), RAM)
    assert here.rule == "its home by the file"
    assert here.came == "0s ago from desk:SSD in 100ms: it rests at desk:RAM, its home"
    assert here.unloads == ("never by itself: it rests here",)


def test_a_home_by_order_names_who_ordered_it():
    """The story knows who moved it there."""
    lab = lab_of(A)
    lab.do(lab.tell(MoveOrdered(A.item, RAM, "the user")))
    here = lab.here(A, RAM, ORDERED)
    assert here.rule == "its home by `move`, ordered by the user"
    assert here.came == "0s ago from desk:SSD in 100ms: moved by the user"


def test_what_is_pinned_never_leaves_its_home():
    """Neither time nor need of room takes it."""
    lab = lab_of(role("a", RAM))
    lab.tell(PinSet(A.item, True, "the user"))
    here = lab.here(A, RAM)
    assert here.rule == "its home by the file, pinned"
    assert (here.evicted, here.unloads) == (("never: pinned",), ("never: pinned",))


def test_a_durable_copy_is_never_dropped():
    """Every version keeps one."""
    here = lab_of(role("a", RAM)).here(A, SSD)
    assert here.rule == "its durable copy"
    assert here.evicted == here.unloads == ("never: the durable copy",)


def test_a_durable_copy_may_be_the_home_too():
    """Then it says both."""
    assert lab_of(A).here(A, SSD).rule == "its durable copy, and its home by the file"


def test_what_was_wanted_says_by_whom():
    """The request's cause is that of the copy."""
    lab = lab_of(A)
    lab.ask(A, "role coder")
    lab.now_s += 60.0
    here = lab.here(A, VRAM)
    assert here.rule == "asked for by role coder"
    assert here.came == "1min ago from desk:SSD in 100ms: asked for by role coder"


def test_at_start_is_a_rule_of_the_file():
    """It was warmed when it was registered."""
    assert lab_of(role("a", at_start=True)).here(A, VRAM).rule == "warmed: at start"


def test_what_is_warmed_is_hinted_until_it_is_asked_for():
    """Somebody said that it will be."""
    lab = lab_of(A)
    lab.do(lab.tell(WarmOrdered(A.item, "the next speaker")))
    assert lab.here(A, VRAM).rule == "hinted: it is sure to be asked for soon (warmed: the next speaker)"


def test_who_speaks_after_another_was_foretold():
    """The rule names the other."""
    table = [role(f"speaker{number}") for number in range(9)]
    lab = Storied().join(desk={**DESK, VRAM: Room(200 * MIB, 100 * MIB, {"small": 3})})
    lab.register(*table)
    for _ in range(12):
        for spec in table:
            lab.ask(spec)
            lab.now_s += 5.0
            lab.do(lab.tell(Beat("desk", lab.now_s, {})))
            lab.do(lab.tell(Tick()))
    lab.ask(table[0])
    assert "% likely to speak soon, after speaker" in lab.here(table[1], VRAM).rule


def test_what_was_asked_for_is_kept_near_in_spare_memory():
    """Its score is told apart."""
    lab = seated(A, B, C)
    lab.do(lab.tell(Tick()))
    (near,) = [spec for spec in (A, B, C) if lab.phase(spec, RAM)]
    assert lab.here(near, RAM).rule == "kept near in spare memory"


def test_where_an_idle_item_goes_is_a_rule_too():
    """That is what `unload.to` says."""
    lab = lab_of(role("a", VRAM, unload_to=RAM))
    lab.do(lab.wait(700.0))
    assert lab.here(A, RAM).rule == "where it goes when it is idle (`unload.to`)"


def test_bytes_from_an_address_have_landed():
    """The address is the durable copy."""
    lab = lab_of(remote("far"))
    lab.ask(remote("far"))
    assert lab.here(remote("far"), NETWORK).rule == "its address, and its home by the file"
    assert lab.here(remote("far"), SSD).rule == "where its bytes landed from its address"


def test_a_shards_log_is_what_its_indexes_are_made_of():
    """It lies where no budget counts it."""
    lab = lab_of(shard("plato"))
    assert lab.here(shard("plato"), LOG).rule == "its log, of which every index is made"
    assert lab.here(shard("plato"), RAM).evicted == ("not now: the only index of the shard",)


def test_a_version_that_was_replaced_says_by_which():
    """The drop of it carries that cause."""
    lab = lab_of(A)
    lab.ask(A)
    newer = role("a", item="a@2")
    lab.tell(Registered(newer, (SSD,)))
    lab.tell(Removed(A.item))
    assert lab.here(A, VRAM).rule == "on its way out: a@2 replaced it"
    assert lab.why(A).asked == "refused: a@1 was removed from the lab [TRC025]"


def test_a_copy_that_idles_says_when_it_goes_and_where():
    """From its last use on, for the file's idle time."""
    lab = lab_of(A)
    lab.ask(A)
    lab.now_s += 60.0
    here = lab.here(A, VRAM)
    assert here.unloads == ("in 9min if nobody asks, to desk:SSD (idle 10min)",)
    assert here.unloads_in_s == pytest.approx(540.0)


def test_who_came_back_too_soon_has_more_patience():
    """How much more, and for how long."""
    lab = lab_of(A)
    lab.ask(A)
    lab.do(lab.wait(650.0))
    lab.now_s += 60.0
    lab.ask(A)
    first, second = lab.here(A, VRAM).unloads
    assert first == "in 20min if nobody asks, to desk:SSD (idle 20min)"
    assert second == "it came back too soon: 2 times the file's idle time for 1.3h"


def test_a_lease_holds_a_copy():
    """Nothing that is in use is freed."""
    lab = seated(A)
    lab.see(VRAM, A, seen=Seen(leases=1))
    here = lab.here(A, VRAM)
    assert (here.leases, here.evicted) == (1, ("not now: 1 lease",))
    assert here.unloads[0].endswith("; 1 in use now")


def test_an_order_to_unload_is_named():
    """What it waits for, too."""
    lab = seated(A)
    lab.see(VRAM, A, seen=Seen(leases=1))
    lab.tell(UnloadOrdered(A.item, "the user"))
    assert lab.here(A, VRAM).unloads == ("now: unloaded by the user, to desk:SSD; 1 in use now",)
    assert lab.why(A).moves == ("to desk:SSD once nobody uses it: unloaded by the user",)


def test_who_would_be_evicted_stands_in_line_after_those_who_are_worth_less():
    """And says what it takes: a want that finds no seat."""
    lab = seated(A, B)
    lab.now_s += 60.0
    a, b = lab.here(A, VRAM), lab.here(B, VRAM)
    assert a.evicted[0] == "when a want finds no seat of small free (0 of 2 are)"
    first, second = sorted((a, b), key=lambda here: here.score)
    name = {a.place + a.evicted[-1]: "a", b.place + b.evicted[-1]: "b"}[first.place + first.evicted[-1]]
    assert first.evicted[-1] == "1 of 2 in line there: the first to go"
    assert second.evicted[-1] == f"2 of 2 in line there: after {name}"


def test_the_first_in_line_is_who_is_evicted():
    """The line is the Machine's own."""
    lab = seated(A, B)
    lab.now_s += 60.0
    (first,) = [spec for spec in (A, B) if lab.here(spec, VRAM).evicted[-1].startswith("1 of 2")]
    assert [each.item for each in lab.ask(C) if isinstance(each, Drop)] == [first.item]


def test_where_it_is_no_longer_says_who_took_its_place():
    """The drop's cause is the eviction's."""
    lab = seated(A, B, C)
    (gone,) = [spec for spec in (A, B, C) if not lab.phase(spec, VRAM)]
    assert lab.why(gone).absent == ("desk:VRAM(cpu) for 5s: makes room for c: asked for by the user",)


def test_what_moves_says_how_soon_it_is_there():
    """By the copies before it."""
    lab = seated(A)
    lab.tell(Wanted("w", B.item, lab.now_s + 30.0, "the user"))
    lab.now_s += 0.02
    told = lab.why(B)
    assert told.here[0].rule == "on its way here: asked for by the user"
    assert told.moves == (
        "10.0 MiB from desk:SSD to desk:VRAM(cpu), there in about 80ms: asked for by the user",
        "a request wants it at desk:VRAM(cpu), for 20ms; given up in 30s",
    )


def test_a_failure_is_remembered_with_its_pause():
    """And what is tried again when."""
    lab = lab_of(A)
    (copy,) = lab.tell(Wanted("w", A.item, 30.0))
    lab.tell(CopyFailed(copy.op, "TRC015", "no answer"))
    lab.now_s += 0.4
    assert lab.why(A).retries == (
        "desk:VRAM(cpu): tried again in 600ms; failed once, the last:",
        "  no answer [TRC015]",
    )


def test_a_failure_for_good_waits_for_a_person():
    """Asking again cannot help."""
    lab = lab_of(A)
    (copy,) = lab.tell(Wanted("w", A.item, 30.0))
    lab.tell(CopyFailed(copy.op, "ADP037", "no effect", permanent=True))
    told, _ = lab.why(A).retries
    assert told.startswith(
        "desk:VRAM(cpu): not tried again until it is registered or moved anew; failed once"
    )
    assert lab.why(A).asked == "refused: no effect [ADP037]"


def test_an_ask_now_says_how_soon_and_in_whose_place():
    """As an order to warm would."""
    lab = seated(A, B)
    assert lab.why(A).asked == "answered at desk:VRAM(cpu) at once"
    lab.now_s += 60.0
    first = next(spec.name for spec in (A, B) if lab.here(spec, VRAM).evicted[-1].startswith("1 of 2"))
    assert lab.why(C).asked == f"ready at desk:VRAM(cpu) in about 100ms, in place of {first}"


def test_an_ask_that_finds_all_seats_in_use_says_who_has_them():
    """It waits until one of them is drained."""
    lab = seated(A, B)
    lab.see(VRAM, A, B, seen=Seen(leases=1))
    told = lab.why(C).asked
    assert told.startswith("waits: desk:VRAM(cpu) has 2 seats for base small, and 2 are taken: ")
    assert "a (1 lease)" in told


def test_a_lost_node_is_the_cause_of_what_is_gone():
    """Its file is there and out of reach."""
    lab = lab_of(role("a", RAM))
    lab.tell(NodeLost("desk", "no beat for 10.0 s"))
    told = lab.why(A)
    assert [here.phase for here in told.here] == ["out of reach (desk is lost)"]
    assert told.absent == ("desk:RAM for 0s: node desk is lost: no beat for 10.0 s",)


def test_without_a_story_a_copy_is_still_told():
    """A reborn coordinator finds what it did not bring."""
    lab = seated(A)
    told = why(lab.state, A.item, lab.now_s, lab.limits)
    assert told.here[0].rule == "found here; its story does not tell who brought it"
    assert told.here[0].came == ""


def test_it_is_one_line_a_fact_within_eighty_columns_and_plain_json():
    """For a terminal, a pipe and a web page."""
    lab = seated(A, B)
    lab.see(VRAM, A, B, seen=Seen(idle_s=5.0, hits=3))
    told = lab.why(A)
    assert max(len(line) for line in lines(told)) <= 80
    assert json.loads(json.dumps(asdict(told)))["here"][0]["place"] == "desk:VRAM(cpu)"


@pytest.mark.parametrize(
    ("command", "event", "text"),
    [
        (
            Copy("1.1", A.item, SSD, RAM, MIB, "x (y)"),
            Copied("1.1", MIB, 0.1),
            "copied 1.0 MiB from desk:SSD",
        ),
        (
            Copy("1.1", A.item, SSD, RAM, MIB, "x"),
            CopyFailed("1.1", "S", "full"),
            "copy to desk:RAM failed: full",
        ),
        (Drop("1.1", A.item, RAM, "idle"), Dropped("1.1"), "dropped from desk:RAM: idle (op 1.1)"),
        (
            Drop("1.1", A.item, RAM, "idle"),
            DropRefused("1.1", 2),
            "not dropped from desk:RAM, 2 in use: idle",
        ),
    ],
    ids=["copied", "failed", "dropped", "refused"],
)
def test_the_end_of_each_command_carries_its_cause(command, event, text):
    """The line alone tells why."""
    told = outcome(command, event)
    assert told.startswith(text)
    assert told.endswith(f"{command.reason} (op 1.1)")


def test_what_a_story_tells_is_read_back():
    """Copies until they left, drops until it came back, the last order."""
    copied = outcome(Copy("1.1", A.item, SSD, RAM, MIB, "kept near: a (b)"), Copied("1.1", MIB, 0.1))
    dropped = outcome(Drop("1.2", A.item, RAM, "idle for 600 s"), Dropped("1.2"))
    order = describe(MoveOrdered(A.item, RAM, "the user"))
    story = [Told(3.0, order), Told(2.0, copied)]
    assert brought(story, "desk:RAM").cause == "kept near: a (b)"
    assert ordered(story, "desk:RAM").cause == "the user"
    story.append(Told(1.0, dropped))
    assert brought(story, "desk:RAM") is None
    assert left(story)["desk:RAM"].cause == "idle for 600 s"
    assert left([*story, Told(0.0, copied)]) == {}


class Asked(Machine):
    """A Machine of whose items it is asked before each Tick why they are there, and kept to the answer."""

    dropped = 0

    def handle(self, event, now_s):
        before = self.state
        commands = super().handle(event, now_s)
        drops = [each for each in commands if isinstance(each, Drop)] if isinstance(event, Tick) else []
        for drop in drops:
            told = why(before, drop.item, now_s, self.limits)
            here = next(each for each in told.here if each.place == str(drop.place))
            assert not here.evicted[0].startswith("never")
            if drop.reason.startswith("idle") and drop.item not in before.patience:
                Asked.dropped += 1
                early = drop.place in before.over or before.items[drop.item].kind == "shard"
                assert here.unloads_in_s == 0.0 or early, (here, drop)
        for item in before.items:
            for here in why(before, item, now_s, self.limits).here:
                assert here.rule
                assert here.unloads
        return commands


def test_in_a_storm_what_leaves_by_itself_was_told_to_leave_now():
    """What the Machine drops because it idled had no time left, and nothing that never leaves has left."""
    Asked.dropped = 0
    for seed in range(6):
        simulate(lambda epoch: Asked(BRISK, epoch), whole_scene(), random.Random(seed), events=150)
    assert Asked.dropped > 1
