import pickle

import pytest

from placement.errors import UserError
from placement.messages import (
    Beat,
    Copied,
    CopyFailed,
    Dropped,
    MoveOrdered,
    NodeLost,
    PinSet,
    Registered,
    Removed,
    Tick,
    WantEnded,
    describe,
)
from placement.rows import Row, Spot, rows
from placement.state import Limits, Place
from placement.tiers import Tier
from tests.placement.brain_lab import ATTIC_SSD, MIB, RAM, SSD, VRAM, Lab, role, shard

A = role("a", home=RAM)


def sentences(lab, spec):
    """Return all news of an item."""
    return [text for item, text in lab.news if item == spec.item]


def test_op_ids_count_up_within_their_epoch():
    """Two machines of different epochs never give the same op."""
    lab = Lab(epoch=4).join()
    ops = [command.op for command in lab.register(A, role("b", home=RAM))]
    assert ops == ["4.1", "4.2"]


def test_a_fork_goes_on_by_itself():
    """What one is told the other never learns: its state, its ops, and whose late answers it could tell."""
    lab = Lab().join()
    twin, state = lab.machine.fork(), lab.state
    (copy,) = lab.register(A)
    assert twin.state is state
    twin.handle(Copied(copy.op, A.nbytes, 0.1), lab.now_s)
    assert twin.news == ()
    (other,) = twin.handle(Registered(role("b", home=RAM), (SSD,)), lab.now_s)
    assert (other.op, other.item) == (copy.op, "b@1")
    assert [op.command.item for op in lab.state.ops.values()] == [A.item]


def test_the_news_are_what_the_owner_cannot_know_from_its_own_work():
    """Registrations and orders are told; commands, their answers and wants are the owner's to write down."""
    lab = Lab().join()
    lab.do(lab.register(A))
    lab.do(lab.want(A))
    lab.now_s = 3.0
    lab.tell(PinSet(A.item, True, "user"))
    lab.tell(Removed(A.item))
    assert sentences(lab, A) == [
        f"registered with home {RAM}, held at {SSD}",
        "pinned by user",
        "removed from the lab",
    ]


def test_the_news_are_of_the_last_event_only():
    """Each call begins anew, one that was refused as well."""
    lab = Lab().join()
    lab.register(A)
    assert lab.machine.news == ((A.item, f"registered with home {RAM}, held at {SSD}"),)
    with pytest.raises(UserError):
        lab.tell(PinSet(role("nobody").item, True, "user"))
    assert lab.machine.news == ()


def test_the_news_tell_what_a_node_took_away_and_brought():
    """A loss and a beat are told to each item that they changed."""
    lab = Lab().join()
    lab.do(lab.register(A))
    lab.tell(NodeLost("desk", "gone"))
    lab.now_s = 1.0
    lab.see(RAM, A)
    assert sentences(lab, A)[-4:] == [
        f"out of reach at {SSD}: node desk is lost: gone",
        f"no longer at {RAM} (node desk is lost: gone)",
        f"in reach again at {SSD}: node desk is back",
        f"found at {RAM} (beat of desk)",
    ]


def test_the_news_tell_of_answers_that_came_too_late():
    """A repeated answer is ignored and not hidden."""
    lab = Lab().join()
    (begun,) = lab.register(A)
    for _ in range(2):
        lab.tell(Copied(begun.op, A.nbytes, 0.1))
    assert sentences(lab, A)[1:] == ["copied 10.0 MiB in 100ms (op 1.1); too late, a beat decides"]


def test_the_news_tell_of_ops_without_answer_and_moves_undone():
    """A Tick that ends something tells it to the item, an undone move with its reason."""
    lab = Lab(limits=Limits(op_s=5.0, move_s=6.0)).join()
    lab.register(role("b"))
    lab.tell(MoveOrdered(role("b").item, RAM, "user"))
    lab.now_s = 5.6
    lab.tell(Tick())
    lab.now_s = 6.0
    lab.tell(Tick())
    assert sentences(lab, role("b"))[1:] == [
        f"move to {RAM} ordered by user",
        "op 1.1 ended without an answer (tick)",
        f"move to {RAM} undone: it was not at {RAM} within 6s, no answer from {RAM} within 5.6 s [TRC012]",
    ]


def test_the_news_tell_of_moves_done_and_of_moves_that_failed_for_good():
    """The end of an order is told when the answer to its copy comes."""
    lab = Lab().join()
    lab.do(lab.register(A))
    (begun,) = lab.tell(MoveOrdered(A.item, VRAM, "user"))
    lab.tell(CopyFailed(begun.op, "ADP037", "no effect", permanent=True))
    assert sentences(lab, A)[-1] == f"move to {VRAM} undone: no effect [ADP037]"
    lab.do(lab.tell(MoveOrdered(A.item, VRAM, "user")))
    assert sentences(lab, A)[-1] == f"move to {VRAM} done"


def test_the_news_tell_of_wants_given_up_and_refused():
    """How a want ended is told if nobody else can tell it."""
    lab = Lab().join()
    lab.register(A)
    lab.want(A)
    lab.tell(WantEnded("w1"))
    (begun,) = [op.command for op in lab.state.ops.values() if op.command.target == VRAM]
    lab.tell(CopyFailed(begun.op, "ADP037", "no effect", permanent=True))
    lab.want(A)
    assert sentences(lab, A)[1:] == ["want w1 gave up", "want w2 refused: no effect [ADP037]"]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (CopyFailed("1.1", "STO003", "full"), "copy failed: full [STO003] (op 1.1)"),
        (CopyFailed("1.2", "STO003", "full", permanent=True), "copy failed for good: full [STO003] (op 1.2)"),
        (Dropped("1.1"), "dropped (op 1.1)"),
        (WantEnded("w1"), "want w1 gave up"),
        (Beat("desk", 0.0, {}), "beat of desk"),
        (Tick(), "tick"),
        (MoveOrdered(A.item, VRAM, "user"), "move to desk:VRAM(cpu) ordered by user"),
    ],
    ids=["failed", "failed for good", "dropped", "gave up", "beat", "tick", "move"],
)
def test_messages_are_described_in_words(message, text):
    """The journal stores sentences that a person can read."""
    assert describe(message) == text


def test_state_and_messages_survive_pickling():
    """They cross processes: equal before and after."""
    lab = Lab().join()
    commands = lab.register(A)
    assert pickle.loads(pickle.dumps((lab.state, commands))) == (lab.state, commands)  # noqa: S301 -- our own


def test_places_are_written_as_people_say_them():
    """Node and tier, and the device where there is one."""
    assert [str(place) for place in (RAM, VRAM)] == ["desk:RAM", "desk:VRAM(cpu)"]
    assert sorted([VRAM, RAM]) == [RAM, VRAM]
    assert Place("a", Tier.SSD) < Place("b", Tier.RAM)


def test_a_row_says_where_an_item_is():
    """Places from the highest tier down, with home, use and what idling will do."""
    lab = Lab().join()
    lab.do(lab.register(A))
    lab.now_s = 5.0
    lab.do(lab.want(A))
    assert rows(lab.state, 5.0) == [
        Row(
            item=A.item,
            name="a",
            kind="adapter",
            places=(Spot(VRAM, "ready", True), Spot(RAM, "ready", True), Spot(SSD, "ready", True)),
            home=RAM,
            nbytes=A.nbytes,
            leases=0,
            used_s=5.0,
            idle_until_s=605.0,
            hits=0,
            pinned=False,
            phase="ready",
            why="",
        )
    ]


def test_the_phase_word_follows_the_item():
    """Cold, warming, ready, migrating, failed and lost, each with a reason where there is one."""
    spec = role("a", durable=ATTIC_SSD)
    lab = Lab().join()

    def phase():
        (row,) = rows(lab.state, lab.now_s)
        return row.phase

    lab.register(spec)
    assert phase() == "cold"
    (begun,) = lab.want(spec)
    assert phase() == "warming"
    lab.tell(CopyFailed(begun.op, "ADP037", "no effect", permanent=True))
    assert (phase(), rows(lab.state, 0.0)[0].why) == ("failed", "no effect [ADP037]")
    lab.register(spec)
    lab.do(lab.want(spec))
    assert phase() == "ready"
    lab.tell(MoveOrdered(spec.item, RAM, "user"))
    assert phase() == "migrating"
    lost = Lab().join()
    lost.register(spec)
    lost.tell(NodeLost("attic", "gone"))
    assert [row.phase for row in rows(lost.state, 0.0)] == ["lost"]


def test_an_item_that_rests_has_no_end_of_idling():
    """Only what would leave somewhere has a time for it."""
    lab = Lab().join()
    lab.do(lab.register(A, shard("s")))
    assert [row.idle_until_s for row in rows(lab.state, 0.0)] == [None, None]


def test_a_row_says_who_takes_the_room_at_its_home():
    """The second of two roles for one seat, and an adapter larger than the RAM, are cold for a reason."""
    big = role("big", home=RAM, nbytes=101 * MIB)
    first, second, third = (role(name, home=VRAM) for name in "xyz")
    lab = Lab().join()
    lab.do(lab.register(big, first, second, third))
    told = {row.name: (row.phase, row.why) for row in rows(lab.state, 0.0)}
    assert told["x"] == told["y"] == ("ready", "")
    assert told["z"] == (
        "cold",
        f"{VRAM} has 2 seats for base small, and 2 are taken: x (idle), y (idle)",
    )
    assert told["big"] == (
        "cold",
        f"{RAM} has 100.0 MiB of 100.0 MiB free, and 101.0 MiB are needed: nobody",
    )


def test_a_row_says_what_failed_at_its_home():
    """An item that is served though it cannot rest at its home tells why."""
    lab = Lab().join()
    (begun,) = lab.register(A)
    lab.tell(CopyFailed(begun.op, "STO003", "disk full", permanent=True))
    lab.do(lab.want(A))
    (row,) = rows(lab.state, 0.0)
    assert (row.phase, row.why) == ("ready", "disk full [STO003]")


def test_an_item_that_was_unloaded_needs_no_room_at_its_home():
    """Idle, it is where it should be: the full home is no reason for anything."""
    spec = role("a", home=VRAM, idle_s=100.0, unload_to=RAM)
    others = [role(name, home=VRAM) for name in "xy"]
    lab = Lab().join()
    lab.do(lab.register(spec))
    lab.do(lab.wait(101))
    lab.do(lab.register(*others))
    row = rows(lab.state, lab.now_s)[0]
    assert (row.phase, row.why) == ("cold", "")
