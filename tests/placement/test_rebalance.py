"""Several engines of one base: where a cold role goes, when a hot one is copied, that it comes to rest."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from placement.errors import UserError
from placement.heat import MEMORIES, count
from placement.machine import Machine
from placement.messages import (
    Beat,
    Copied,
    Copy,
    CopyFailed,
    Drop,
    Dropped,
    Grant,
    MoveOrdered,
    NodeJoined,
    NodeLost,
    PinSet,
    Refuse,
    Registered,
    Seen,
    Tick,
    WarmOrdered,
)
from placement.resume import as_ordered
from placement.scenery import Scene
from placement.simulate import simulate
from placement.state import Place, Room
from placement.tiers import Tier
from tests.placement.brain_lab import (
    ATTIC,
    ATTIC_SSD,
    BRISK,
    DESK,
    LIMITS,
    MIB,
    RAM,
    SSD,
    VRAM,
    Lab,
    role,
    shard,
)

FAR = Place("attic", Tier.VRAM, "cpu")
A, B, C, D, E = (role(name, serves_at=(VRAM, FAR)) for name in "abcde")


def two_engines(*specs, seats=3, **kwargs):
    """Return a lab of one base with an engine on each node, and these roles."""
    room = Room(200 * MIB, 100 * MIB, {"small": seats})
    lab = Lab(**kwargs).join(desk={**DESK, VRAM: room}, attic={**ATTIC, FAR: room})
    lab.register(*specs)
    return lab


def bring(lab, spec, place):
    """Have a role be ready at an engine because a beat shows it there."""
    held = {item: Seen(idle_s=lab.now_s) for item in (*lab.state.shelves.get(place, {}), spec.item)}
    lab.now_s += 0.1
    lab.tell(Beat(place.node, lab.now_s, {place: held}))


def asked(lab, place, asks, leases=0):
    """Tell a beat of an engine: each role's count of asks, and the requests in flight of the first one."""
    lab.now_s += 1.0
    first = next(iter(asks))
    shown = {spec.item: Seen(leases if spec is first else 0, 0.0, hits) for spec, hits in asks.items()}
    lab.tell(Beat(place.node, lab.now_s, {place: shown}))


def pass_by(lab, seconds):
    """Let time pass with empty beats; return all that is commanded, and do it."""
    given, until_s = [], lab.now_s + seconds
    while lab.now_s < until_s:
        lab.now_s += 1.0
        for node in lab.state.nodes:
            lab.tell(Beat(node, lab.now_s, {}))
        commands = lab.tell(Tick())
        given += [*commands, *lab.do(commands)]
    return given


class Traffic:
    """A constant load on a lab: asks drawn by `odds`, each served by the engine with the shortest queue."""

    def __init__(self, lab, odds, a_second=10, request_s=1.5, seed=1):
        self.lab, self.odds, self.a_second, self.request_s = lab, odds, a_second, request_s
        self.dice = random.Random(seed)
        self.hits, self.ends = {}, []
        self.steps = []

    def run(self, seconds):
        for _ in range(seconds):
            self.lab.now_s += 1.0
            self.ends = [end for end in self.ends if end[0] > self.lab.now_s]
            for spec in self.dice.choices(list(self.odds), list(self.odds.values()), k=self.a_second):
                self._ask(spec)
            self._beat()
            self._do(self.lab.tell(Tick()))

    def _ask(self, spec):
        ready = [place for place in (VRAM, FAR) if self.lab.state.ready(spec.item, place)]
        if not ready:
            self._do(self.lab.want(spec))
            return
        place = min(ready, key=lambda at: sum(where == at for _, _, where in self.ends))
        self.hits[spec.item, place] = self.hits.get((spec.item, place), 0) + 1
        self.ends.append((self.lab.now_s + self.request_s, spec.item, place))

    def _beat(self):
        for place in (VRAM, FAR):
            shown = {
                item: Seen(
                    sum((item, place) == (who, where) for _, who, where in self.ends),
                    0.0,
                    self.hits.get((item, place), 0),
                )
                for item in self.lab.state.shelves.get(place, {})
            }
            self.lab.tell(Beat(place.node, self.lab.now_s, {place: shown}))

    def _do(self, commands):
        every = [*commands, *self.lab.do(commands)]
        self.steps += [
            each
            for each in every
            if (isinstance(each, Copy) and each.target.tier is Tier.VRAM)
            or (isinstance(each, Drop) and each.place.tier is Tier.VRAM)
        ]


def targets(commands):
    """Return where copies go."""
    return [command.target for command in commands if isinstance(command, Copy)]


def test_a_cold_role_goes_to_the_engine_that_is_asked_less():
    """The first one goes to the first engine, the second to the other."""
    lab = two_engines(A, B)
    first = lab.want(A)
    lab.do(first)
    assert (targets(first), targets(lab.want(B))) == ([VRAM], [FAR])


def test_a_cold_role_goes_where_a_seat_is_free():
    """However much more the engine is asked that has one."""
    lab = two_engines(A, B, C, D, seats=2)
    bring(lab, A, VRAM)
    bring(lab, B, FAR)
    bring(lab, C, FAR)
    asked(lab, VRAM, {A: 50})
    assert targets(lab.want(D)) == [VRAM]


def test_a_want_is_met_by_a_copy_in_any_engine():
    """No second copy is made for a role that another engine has."""
    lab = two_engines(A)
    bring(lab, A, FAR)
    (granted,) = lab.want(A)
    assert (type(granted), granted.place) == (Grant, FAR)


def test_a_want_is_granted_where_least_is_in_flight():
    """Of two ready copies."""
    lab = two_engines(A)
    bring(lab, A, VRAM)
    bring(lab, A, FAR)
    asked(lab, VRAM, {A: 3}, leases=3)
    asked(lab, FAR, {A: 1}, leases=1)
    (granted,) = lab.want(A)
    assert granted.place == FAR


def test_a_want_that_waits_goes_to_the_other_engine_when_a_seat_is_free_there():
    """Both were full of what is in use when it came."""
    lab = two_engines(A, B, C, seats=1)
    bring(lab, A, VRAM)
    bring(lab, B, FAR)
    asked(lab, VRAM, {A: 1}, leases=1)
    asked(lab, FAR, {B: 1}, leases=1)
    assert targets(lab.want(C)) == []
    lab.now_s += 0.5
    lab.tell(Beat("attic", lab.now_s, {FAR: {}}))
    lab.now_s += 0.1
    assert targets(lab.tell(Tick())) == [FAR]


def test_a_want_outlives_the_engine_that_it_waited_for():
    """It is made ready in the other one."""
    lab = two_engines(replace(A, durable=ATTIC_SSD))
    (copy,) = lab.want(A)
    assert copy.target == VRAM
    lab.now_s += 0.1
    assert targets(lab.tell(NodeLost("desk", "the cable"))) == [FAR]
    assert lab.tell(CopyFailed(copy.op, "TRC013", "the cable")) == []


def test_a_want_is_refused_when_no_engine_is_left():
    """The code says that it is the node."""
    lab = two_engines(replace(A, durable=ATTIC_SSD))
    lab.tell(NodeLost("desk", "the cable"))
    lab.tell(NodeLost("attic", "the storm"))
    assert [each.code for each in lab.want(A) if isinstance(each, Refuse)] == ["TRC013"]


def test_an_order_to_warm_takes_the_free_seat():
    """Where it is warmed, a want finds it."""
    lab = two_engines(A, B, seats=1)
    bring(lab, A, VRAM)
    asked(lab, VRAM, {A: 1}, leases=1)
    assert targets(lab.tell(WarmOrdered(B.item, "the user"))) == [FAR]


def test_one_free_seat_draws_one_of_those_who_wait():
    """The others keep their turn where they are."""
    lab = two_engines(A, B, C, D, seats=1)
    bring(lab, A, VRAM)
    asked(lab, VRAM, {A: 1}, leases=1)
    lab.tell(NodeLost("attic", "the storm"))
    for spec in (B, C, D):
        lab.now_s += 0.01
        assert targets(lab.want(spec)) == []
    assert list(lab.state.lines[VRAM]) == [B.item, C.item, D.item]
    lab.now_s += 0.1
    assert targets(lab.tell(Beat("attic", lab.now_s, {FAR: {}}))) == [FAR]
    assert list(lab.state.lines[VRAM]) == [C.item, D.item]


def test_who_changes_lines_stands_by_how_long_it_has_waited():
    """It is not put behind whoever came later."""
    far = [replace(spec, durable=ATTIC_SSD) for spec in (A, B, C, D)]
    lab = two_engines(*far, seats=1)
    bring(lab, far[0], VRAM)
    bring(lab, far[1], FAR)
    asked(lab, VRAM, {far[0]: 1}, leases=1)
    asked(lab, FAR, {far[1]: 1}, leases=1)
    for spec in far[2:]:
        lab.now_s += 0.01
        assert targets(lab.want(spec)) == []
    assert (list(lab.state.lines[VRAM]), list(lab.state.lines[FAR])) == ([C.item], [D.item])
    lab.tell(NodeLost("desk", "the cable"))
    assert list(lab.state.lines[FAR]) == [C.item, D.item]


def test_a_seat_that_a_further_copy_left_goes_to_who_waits_there_at_once():
    """The answer of the drop is enough: no beat and no Tick is waited for."""
    lab = two_engines(A, B, C, seats=1)
    bring(lab, A, VRAM)
    bring(lab, A, FAR)
    asked(lab, VRAM, {A: 1}, leases=1)
    assert lab.want(C) == []
    (drop,) = lab.want(B)
    assert (type(drop), drop.item, drop.place) == (Drop, A.item, FAR)
    (copy,) = lab.tell(Dropped(drop.op))
    assert (type(copy), copy.item, copy.target) == (Copy, B.item, FAR)


def test_asks_are_not_counted_again_when_their_node_is_back():
    """Its engine goes on counting from where it was."""
    lab = two_engines(A)
    bring(lab, A, VRAM)
    asked(lab, VRAM, {A: 50})
    before = lab.state.asks.number
    lab.tell(NodeLost("desk", "the cable"))
    asked(lab, VRAM, {A: 50})
    assert lab.state.asks.number == before
    asked(lab, VRAM, {A: 52})
    assert lab.state.asks.number == before + 2


def test_a_home_that_is_lost_is_not_waited_for_while_another_engine_may_come():
    """One that has not told of itself yet is better than one that is gone."""
    lab = two_engines(replace(A, home=VRAM, durable=ATTIC_SSD))
    lab.tell(NodeLost("attic", "the storm"))
    lab.tell(NodeLost("desk", "the cable"))
    lab.now_s += 1.0
    room = Room(200 * MIB, 100 * MIB, {"small": 3})
    lab.tell(NodeJoined("attic", {**ATTIC, FAR: room}))
    assert [each for each in lab.want(A) if isinstance(each, Refuse)] == []
    assert lab.state.goal(A.item) == FAR


def test_asks_are_counted_in_both_engines():
    """Each has a count of its own, and they do not begin anew with each other."""
    lab = two_engines(A)
    bring(lab, A, VRAM)
    bring(lab, A, FAR)
    for number in range(1, 6):
        asked(lab, VRAM, {A: 10 * number})
        asked(lab, FAR, {A: number})
    assert count(lab.state, A.item, len(MEMORIES) - 1) == pytest.approx(55, rel=0.01)


def test_a_hot_role_is_copied_to_the_other_engine():
    """It has nearly all asks of its base, and several in flight."""
    lab = two_engines(A, B)
    bring(lab, A, VRAM)
    asked(lab, VRAM, {A: 40}, leases=4)
    (copy,) = lab.tell(Tick())
    assert (copy.item, copy.target) == (A.item, FAR)
    assert copy.reason.startswith("hot, 100% of asks at desk:VRAM(cpu)")


def test_a_hot_role_that_nobody_waits_behind_stays_in_one_engine():
    """One request at a time gains nothing from a second engine."""
    lab = two_engines(A, B)
    bring(lab, A, VRAM)
    asked(lab, VRAM, {A: 40}, leases=1)
    assert lab.tell(Tick()) == []


def test_a_hot_role_takes_no_seat_of_what_lives_there():
    """The other engine is full of those who are at home in it."""
    lab = two_engines(A, replace(B, home=FAR), seats=1)
    bring(lab, A, VRAM)
    bring(lab, B, FAR)
    asked(lab, VRAM, {A: 40}, leases=4)
    assert lab.tell(Tick()) == []


def hot_and_copied(*specs, **kwargs):
    """Return a lab whose first role has a copy in each engine."""
    lab = two_engines(*specs, **kwargs)
    bring(lab, specs[0], VRAM)
    asked(lab, VRAM, {specs[0]: 40}, leases=4)
    lab.do(lab.tell(Tick()))
    assert lab.phase(specs[0], FAR) == "ready"
    return lab


def test_the_further_copy_of_a_role_that_is_no_longer_asked_for_leaves():
    """It stays for a while first, and one engine goes on serving."""
    lab = hot_and_copied(A, B)
    asked(lab, VRAM, {A: 41})
    assert pass_by(lab, LIMITS.further_s / 2) == []
    (drop,) = pass_by(lab, LIMITS.further_s)
    assert (drop.item, drop.place, lab.phase(A, VRAM)) == (A.item, FAR, "ready")
    assert drop.reason.startswith("cooled, not asked for in ")


def test_the_further_copy_of_a_role_leaves_when_others_are_asked_as_often():
    """Without it no engine would lead."""
    lab = hot_and_copied(A, B)
    bring(lab, B, FAR)
    for number in range(1, 80):
        asked(lab, VRAM, {A: 40 + 10 * number})
        asked(lab, FAR, {B: 12 * number, A: 0})
        drops = [each for each in lab.tell(Tick()) if isinstance(each, Drop)]
        if drops:
            break
    assert [(drop.item, drop.place) for drop in drops] == [(A.item, FAR)]
    assert "% of asks: desk:VRAM(cpu) is enough" in drops[0].reason


def test_a_further_copy_in_use_stays():
    """Leases hold for each copy."""
    lab = hot_and_copied(A, B)
    asked(lab, FAR, {A: 1}, leases=1)
    assert not any(isinstance(each, Drop) for each in pass_by(lab, 3 * LIMITS.further_s))


def test_a_further_copy_in_use_does_not_keep_others_from_leaving():
    """Neither is needed, for others are asked for as often in both engines; who has no lease leaves."""
    lab = two_engines(A, B, C, D)
    for spec, places in ((A, (VRAM, FAR)), (B, (VRAM, FAR)), (C, (VRAM,)), (D, (FAR,))):
        for place in places:
            bring(lab, spec, place)
    lab.now_s += LIMITS.further_s + 1.0
    idle, busy = Seen(0, LIMITS.further_s + 1.0), Seen(0, 0.0, 40)
    in_use = Seen(1, 0.0, 1)
    lab.tell(Beat("desk", lab.now_s, {VRAM: {A.item: in_use, B.item: idle, C.item: busy}}))
    lab.tell(Beat("attic", lab.now_s, {FAR: {A.item: in_use, B.item: idle, D.item: busy}}))
    lab.now_s += 0.1
    left = [each for each in lab.tell(Tick()) if isinstance(each, Drop) and each.reason.startswith("cooled")]
    assert [each.item for each in left] == [B.item]


def test_a_pinned_role_keeps_its_home_and_lets_a_further_copy_go():
    """A pin holds for the copy at home."""
    home = replace(A, home=VRAM)
    lab = hot_and_copied(home, B)
    lab.tell(PinSet(A.item, True, "the user"))
    (drop,) = pass_by(lab, 2 * LIMITS.further_s)
    assert (drop.place, lab.phase(home, VRAM)) == (FAR, "ready")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "odds",
    [
        {A: 90, B: 5, C: 5},
        {A: 70, B: 20, C: 10},
        {A: 50, B: 50},
        {A: 20, B: 20, C: 20, D: 20, E: 20},
        {A: 60, B: 10, C: 10, D: 10, E: 10},
    ],
)
def test_a_constant_load_comes_to_rest(odds, seed):
    """Ten minutes of asks move few copies, and the second five minutes hardly any."""
    lab = two_engines(*odds)
    traffic = Traffic(lab, odds, seed=seed)
    traffic.run(300)
    assert len(traffic.steps) <= len(odds) + 4, [each.reason for each in traffic.steps]
    before = len(traffic.steps)
    traffic.run(300)
    assert len(traffic.steps) - before <= 2, [each.reason for each in traffic.steps[before:]]


def test_roles_for_more_seats_than_there_are_drive_no_further_copies_to_and_fro():
    """Wants take turns in the seats; a further copy is not made again and again."""
    lab = two_engines(A, B, C, D, E, seats=2)
    traffic = Traffic(lab, {A: 80, B: 5, C: 5, D: 5, E: 5}, a_second=6)
    traffic.run(300)
    further = [each for each in traffic.steps if isinstance(each, Copy) and each.reason.startswith("hot")]
    assert len(further) <= 300 / LIMITS.further_s


def twins():
    """Return a lab of one role with an engine on each node, and of one of another base with one engine."""
    big = replace(B, serves_at=(VRAM,), base="big", idle_s=4.0)
    specs = (replace(A, idle_s=5.0), big, shard("s", idle_s=4.0))
    seats = {"small": 2, "big": 1}
    rooms = {
        "desk": {RAM: Room(60 * MIB), SSD: Room(900 * MIB), VRAM: Room(130 * MIB, 100 * MIB, seats)},
        "attic": {**ATTIC, FAR: Room(130 * MIB, 100 * MIB, {"small": 2})},
    }
    return Scene(rooms, specs)


def test_storms_over_two_engines_break_no_rule():
    """Whatever is lost, doubled or killed; hot roles are copied meanwhile."""
    reasons = Counter()
    for seed in range(12):
        run = simulate(lambda epoch: Machine(BRISK, epoch), twins(), random.Random(seed), 300)
        assert (seed, run.violations, run.stuck) == (seed, (), ())
        told = [each.reason for each in run.commands if isinstance(each, Copy | Drop)]
        reasons.update(reason.partition(",")[0] for reason in told)
    assert reasons["hot"] >= 10


def test_a_role_is_moved_from_one_engine_to_the_other():
    """The copy in the first leaves once it is ready in the second."""
    lab = two_engines(A)
    bring(lab, A, VRAM)
    lab.do(lab.tell(MoveOrdered(A.item, FAR, "the user")))
    assert (lab.phase(A, VRAM), lab.phase(A, FAR)) == (None, "ready")
    assert lab.state.goal(A.item) == FAR


def test_a_role_is_not_moved_to_an_engine_of_another_base():
    """The error names the engines that there are."""
    lab = two_engines(A)
    with pytest.raises(UserError, match=r"its engine is at desk:VRAM\(cpu\), attic:VRAM\(cpu\)"):
        lab.tell(MoveOrdered(A.item, FAR._replace(device="cuda:9"), "the user"))


def test_an_ordered_engine_is_the_home_after_a_restart():
    """One that is no longer there gives way to the first."""
    here = {"desk", "attic"}
    assert as_ordered(A, {A.item: FAR}, {}, here).home == FAR
    gone = FAR._replace(device="cuda:9")
    assert as_ordered(A, {A.item: gone}, {}, here).home == VRAM


def test_an_engine_that_joins_later_is_used():
    """The role is registered again with both engines, and goes to the emptier one."""
    lab = two_engines(replace(A, serves_at=(VRAM,)), replace(B, serves_at=(VRAM,)))
    lab.do(lab.want(A))
    for spec in (A, B):
        lab.tell(Registered(spec, (SSD,)))
    assert lab.state.goal(A.item) == VRAM
    (copy,) = lab.want(B)
    assert copy.target == FAR
    lab.tell(Copied(copy.op, copy.nbytes, 0.1))
    assert lab.phase(B, FAR) == "ready"


def test_a_lab_with_one_engine_has_nothing_to_choose():
    """Nothing is kept of it, and a Tick costs nothing more."""
    lab = Lab().join()
    lab.register(role("a"))
    lab.do(lab.want(role("a")))
    assert lab.state.aims == {}
