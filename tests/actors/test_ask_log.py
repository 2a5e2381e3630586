import json
import os
import resource
import signal
from contextlib import contextmanager

import pytest

from actors.answer import Activation
from actors.ask_log import AskLog
from actors.lm.request import Request
from actors.uses import Use, Uses
from placement.errors import Cold
from placement.machine import Machine
from placement.messages import NodeJoined, Registered, Removed
from placement.replay.replay import play
from placement.replay.stage import plain
from placement.replay.trace import BUS, DISK, SPEEDS, read
from placement.speed import learned
from placement.state import Item, Limits, Place, Room, Spec
from placement.tiers import Tier

VRAM, RAM, SSD = Place("desk", Tier.VRAM, "cpu"), Place("desk", Tier.RAM), Place("desk", Tier.SSD)
ROOMS = {VRAM: Room(1000, 300, {"small": 3}), RAM: Room(500), SSD: Room(9000)}


def lab(*items, machine=None):
    """Return a Machine that knows adapters of 100 bytes, each `role@version`."""
    machine = machine or Machine(Limits(), 1)
    machine.handle(NodeJoined("desk", ROOMS), 0.0)
    for item in items:
        name = item.partition("@")[0]
        machine.handle(
            Registered(Spec(Item(item), name, "adapter", 100, SSD, (VRAM,), "small", "d", SSD), (SSD,)), 0.0
        )
    return machine


def told(log, machine, *uses, pid=7, costs=None):
    """Have a log hear of uses."""
    log.hear("small", pid, uses, VRAM, machine.state, costs or {})


def ready(tmp_path, machine, **options):
    """Return a log that has heard of its engine."""
    log = AskLog(tmp_path, **options)
    told(log, machine)
    return log


def lines(path):
    """Return the lines of a log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def request(number="r1", item="a@1"):
    """Return a request for an adapter."""
    return Request(id=number, item=item, tokens=[1])


def test_a_log_of_asks_is_a_trace_that_replays(tmp_path):
    """Its header has the bytes of the adapters and the room of the engine."""
    machine = lab("a@1", "b@1")
    log = ready(tmp_path, machine)
    told(log, machine, Use(1, 100.5, "a@1", 0.0, 2.0), Use(2, 100.0, "b@1", 0.25, 1.0))
    trace = read(log.path("small").read_text().splitlines(), "log")
    assert (trace.header.slots, trace.header.ram, trace.header.fixed) == (3, 500, 300)
    assert [(ask.t, ask.role, ask.busy_s) for ask in trace.asks] == [(100.0, "b", 1.0), (100.5, "a", 2.0)]
    assert play(trace, "tierce", plain(trace.header, 3)).asks == 2


def test_a_line_says_where_an_ask_found_its_adapter_and_nothing_of_what_was_said(tmp_path):
    """What waited came from the tier of its activation."""
    machine = lab("a@1")
    log = ready(tmp_path, machine)
    costs = {Item("a@1"): Activation("RAM", 100, 0.3, 0.1)}
    told(log, machine, Use(1, 100.0, "a@1", 0.25, 1.0), Use(2, 102.0, "a@1", 0.0, 1.5), costs=costs)
    _, cold, warm = lines(log.path("small"))
    assert cold == {"t": 100.0, "role": "a", "busy_s": 1.0, "after": None, "tier": "RAM", "waited_s": 0.25}
    assert (warm["tier"], warm["waited_s"]) == ("VRAM", 0.0)


def test_what_is_told_with_every_beat_is_written_once(tmp_path):
    """A new process of the engine begins to count anew."""
    machine = lab("a@1")
    log = ready(tmp_path, machine)
    first, second = Use(1, 100.0, "a@1", 0.0, 1.0), Use(2, 101.0, "a@1", 0.0, 1.0)
    told(log, machine, first)
    told(log, machine, first, second)
    told(log, machine, Use(1, 200.0, "a@1", 0.0, 1.0), pid=8)
    assert [line["t"] for line in lines(log.path("small"))[1:]] == [100.0, 101.0, 200.0]


def test_a_log_that_is_opened_again_goes_on_without_writing_anything_twice(tmp_path):
    """The coordinator was restarted, and the engine tells again what it told before."""
    machine = lab("a@1")
    first = Use(1, 100.0, "a@1", 0.0, 1.0)
    told(ready(tmp_path, machine), machine, first)
    log = AskLog(tmp_path)
    told(log, machine, first)
    told(log, machine, first, Use(2, 101.0, "a@1", 0.0, 1.0))
    trace = read(log.path("small").read_text().splitlines(), "log")
    assert [ask.t for ask in trace.asks] == [100.0, 101.0]


def test_a_role_that_comes_later_or_in_another_version_has_its_bytes_in_the_log(tmp_path):
    """Before its first ask."""
    machine = lab("a@1")
    log = ready(tmp_path, machine)
    told(log, machine, Use(1, 100.0, "a@1", 0.0, 1.0))
    lab("c@1", "a@2", machine=machine)
    told(log, machine, Use(2, 101.0, "c@1", 0.0, 1.0), Use(3, 102.0, "a@2", 0.0, 1.0))
    trace = read(log.path("small").read_text().splitlines(), "log")
    assert list(trace.header.items) == ["c@1", "a@2"]
    assert len(trace.asks) == 3


def test_a_log_is_bounded_and_each_of_its_files_is_a_trace(tmp_path):
    """A full one gives way to a new one with a header of its own; one before it is kept."""
    machine = lab("a@1")
    log = ready(tmp_path, machine, log_nbytes=600)
    for number in range(1, 21):
        told(log, machine, Use(number, 100.0 + number, "a@1", 0.0, 1.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asks-small.1.jsonl", "asks-small.jsonl"]
    for path in tmp_path.iterdir():
        assert path.stat().st_size < 600 + 200
        assert read(path.read_text().splitlines(), path.name).header.slots == 3


def test_each_engine_has_a_log_of_its_own_whatever_the_bases_are_called(tmp_path):
    """A further engine of a base is not mistaken for a base of such a name."""
    log = AskLog(tmp_path)
    names = ["small", "small#2", "small_2", "small+2"]
    assert log.path("small#2").name == "asks-small+2.jsonl"
    assert log.path("small#2") not in {log.path(name) for name in names if name != "small#2"}


def replayed(log):
    """Return the trace that a log is."""
    return read(log.path("small").read_text().splitlines(), "log")


@pytest.mark.parametrize("left", [0, 1, 20, -1, -20])
def test_a_log_that_was_cut_off_at_any_byte_is_a_trace_again_after_the_next_ask(tmp_path, left):
    """The process was killed while it wrote; half a header goes too, and a whole one comes."""
    machine = lab("a@1")
    log = ready(tmp_path, machine)
    told(log, machine, Use(1, 100.0, "a@1", 0.0, 1.0))
    path = log.path("small")
    os.truncate(path, left if left >= 0 else path.stat().st_size + left)
    log = ready(tmp_path, machine)
    told(log, machine, Use(2, 101.0, "a@1", 0.0, 1.0))
    assert [ask.t for ask in replayed(log).asks] == [101.0]


@contextmanager
def disk_that_takes(nbytes):
    """Let this process write no file beyond so many bytes meanwhile: what comes after them is refused."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heard)


@pytest.mark.parametrize("written", [0, 1])
def test_what_a_full_disk_refuses_leaves_the_log_whole_and_is_written_once_there_is_room(tmp_path, written):
    """The first line may be the header."""
    machine = lab("a@1")
    log = ready(tmp_path, machine)
    uses = [Use(number, 100.0 + number, "a@1", 0.0, 1.0) for number in (1, 2)]
    told(log, machine, *uses[:written])
    path = log.path("small")
    before = path.read_bytes() if written else b""
    with disk_that_takes(len(before) + 30), pytest.raises(OSError, match="File too large"):
        told(log, machine, *uses)
    assert path.read_bytes() == before
    told(log, machine, *uses)
    assert [ask.t for ask in replayed(log).asks] == [101.0, 102.0]


def test_a_log_that_begins_while_a_role_is_updated_names_the_new_version(tmp_path):
    """Two of its versions are registered then; an ask that the old one still answers names it below."""
    machine = lab("a@1", "b@1", "a@2")
    log = ready(tmp_path, machine)
    told(log, machine, Use(1, 100.0, "b@1", 0.0, 1.0))
    assert list(replayed(log).header.items) == ["a@2", "b@1"]
    told(log, machine, Use(2, 101.0, "a@1", 0.0, 1.0))
    assert list(replayed(log).header.items) == ["b@1", "a@1"]


def test_a_version_that_is_being_removed_is_not_in_a_header(tmp_path):
    """Its successor came first."""
    machine = lab("a@2", "b@1", "a@1")
    machine.handle(Removed(Item("a@1")), 1.0)
    log = ready(tmp_path, machine)
    told(log, machine, Use(1, 100.0, "b@1", 0.0, 1.0))
    assert list(replayed(log).header.items) == ["a@2", "b@1"]


def test_a_header_has_the_speeds_that_the_lab_measured(tmp_path):
    """A hop over which nothing went has those that are assumed."""
    machine = lab("a@1")
    for nbytes in (10**8, 3 * 10**8):
        machine.state.speeds = learned(machine.state.speeds, SSD, RAM, nbytes, 0.25 + nbytes / 2e9)
    log = ready(tmp_path, machine)
    told(log, machine, Use(1, 100.0, "a@1", 0.0, 1.0))
    header = replayed(log).header
    assert header.speeds == {DISK: pytest.approx(2e9), BUS: pytest.approx(SPEEDS[BUS])}
    assert header.latencies[DISK] == pytest.approx(0.25)


def test_an_engine_counts_a_request_that_found_no_slot_and_came_again_as_one_use_that_waited():
    """It was first tried when it was refused."""
    uses = Uses()
    with pytest.raises(Cold), uses.of(request()):
        raise Cold("TRC010", "not here")
    assert uses.told() == ()
    with uses.of(request()):
        pass
    (use,) = uses.told()
    assert (use.number, use.item) == (1, "a@1")
    assert use.waited_s > 0.0
    assert use.busy_s >= 0.0


def test_a_warm_use_has_not_waited_and_one_of_the_bare_base_is_none():
    """The base has no adapter to wait for."""
    uses = Uses()
    with uses.of(request("r1", "a@1")):
        pass
    with uses.of(request("r2", None)):
        pass
    (use,) = uses.told()
    assert use.waited_s == 0.0


def test_a_use_whose_answer_broke_off_counts_too():
    """It held its adapter."""
    uses = Uses()
    with pytest.raises(RuntimeError), uses.of(request()):
        raise RuntimeError
    assert len(uses.told()) == 1


def test_a_use_is_told_until_it_is_heard_and_then_no_more(tmp_path):
    """A beat that got lost loses nothing; a process that was reborn counts anew, and is heard anew."""
    machine, uses = lab("a@1"), Uses()
    log = ready(tmp_path, machine)
    assert uses.told(log.heard("small")) == ()
    for number in ("r1", "r2"):
        with uses.of(request(number)):
            pass
        lost = uses.told(log.heard("small"))
        assert lost == uses.told(log.heard("small"))
        told(log, machine, *lost, pid=os.getpid())
        assert uses.told(log.heard("small")) == ()
    assert len(lines(log.path("small"))) == 3
    told(log, machine, pid=os.getpid() + 1)
    assert [use.number for use in uses.told(log.heard("small"))] == [1, 2]
