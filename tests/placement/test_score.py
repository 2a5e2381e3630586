"""What an item is worth: who is asked for often, who is dear to bring back, who is announced."""

import pytest

from placement.heat import MEMORIES
from placement.messages import Drop, Refuse, Seen, Tick, WantEnded, WarmOrdered
from placement.score import worth
from placement.state import Limits
from tests.placement.brain_lab import MIB, RAM, SSD, VRAM, Lab, remote, role

A, B, C = role("a"), role("b"), role("c")


def asked(lab, spec, times=1):
    """Ask for an item so many times, and let it come up."""
    for _ in range(times):
        lab.do(lab.want(spec))
        lab.now_s += 1.0


def dropped(commands):
    """Return whom the drops drop."""
    return [command.item for command in commands if isinstance(command, Drop)]


def test_who_is_asked_for_often_keeps_its_seat_against_who_was_asked_last():
    """A want evicts the one with the fewest asks of late, not the one idle longest."""
    lab = Lab(limits=Limits(foresees=False)).join()
    lab.register(A, B, C)
    asked(lab, A, 5)
    asked(lab, B)
    assert dropped(lab.want(C)) == [B.item]


def test_who_takes_longer_to_bring_back_keeps_its_seat():
    """Of two that are asked for alike, the smaller one goes."""
    large, small = role("large", nbytes=60 * MIB), role("small", nbytes=1 * MIB)
    lab = Lab(limits=Limits(foresees=False)).join()
    lab.register(small, large, C)
    asked(lab, large)
    asked(lab, small)
    assert dropped(lab.want(C)) == [small.item]


def test_the_weights_of_the_file_decide():
    """Without a weight on frequency and recency, only the cost of bringing back counts."""
    large, small = role("large", nbytes=60 * MIB), role("small", nbytes=1 * MIB)
    lab = Lab(limits=Limits(frequency=0.0, recency=0.0, cost=1.0, foresees=False)).join()
    lab.register(small, large, C)
    asked(lab, large)
    asked(lab, small, 9)
    assert dropped(lab.want(C)) == [small.item]


def test_an_announced_item_is_worth_its_seat_until_it_is_used():
    """Who was warmed for its turn does not leave before it, however rarely it was asked for."""
    lab = Lab().join()
    lab.register(A, B, C)
    asked(lab, A, 9)
    lab.do(lab.tell(WarmOrdered(B.item, "next to speak", 60.0)))
    lab.now_s += 5.0
    assert dropped(lab.want(C)) == [A.item]


def test_warm_uses_are_counted_from_beats_and_no_want_twice():
    """The engine's own count shows the want that was counted already, and what came after it."""
    lab = Lab().join()
    lab.register(A)
    lab.do(lab.want(A))
    lab.now_s += 1.0
    lab.see(VRAM, A, seen=Seen(hits=1))
    assert lab.state.asks.number == 1
    lab.now_s += 1.0
    lab.see(VRAM, A, seen=Seen(hits=4))
    assert lab.state.asks.number == 4


def test_a_use_counts_once_though_its_item_left_and_came_back():
    """An engine counts anew from each coming; nothing that was told before is taken off."""
    lab = Lab().join()
    lab.register(A)
    for hits in (2, 5):
        lab.do(lab.want(A))
        lab.now_s += 1.0
        lab.see(VRAM, A, seen=Seen(hits=hits))
        lab.now_s += 1.0
        lab.see(VRAM)
    assert lab.state.asks.number == 7


@pytest.mark.parametrize("given_up", [True, False], ids=["given up", "refused"])
def test_a_want_that_ended_without_its_item_is_not_taken_off_later_uses(given_up):
    """Only who was granted the item will show up in its engine's count."""
    lab = Lab().join()
    lab.register(A)
    commands = lab.want(A, within_s=5.0)
    if given_up:
        lab.tell(WantEnded("w1"))
    else:
        lab.now_s += 5.0
        assert [type(each) for each in lab.tell(Tick())] == [Refuse]
    lab.do(commands)
    lab.now_s += 1.0
    lab.see(VRAM, A, seen=Seen(hits=2))
    assert lab.state.asks.number == 3


def test_what_came_from_an_address_is_dear_until_it_has_landed():
    """Memory saves the way from the address as long as nothing lies on the disk."""
    far = remote("far")
    lab = Lab().join()
    lab.register(far)

    def saved_s(place):
        return worth(lab.state, far.item, place, lab.now_s, lab.limits).reload_s

    before_s = saved_s(RAM)
    (copy,) = lab.want(far)
    assert saved_s(RAM) == before_s
    lab.do([copy])
    assert lab.phase(far, SSD) == "ready"
    assert saved_s(RAM) < before_s / 10
    assert saved_s(SSD) > before_s / 3


def test_the_memory_that_foretells_best_is_the_one_that_is_used():
    """While the same few are asked for all the time a long memory is trusted, after a change a short one."""
    specs = [role(f"r{number}") for number in range(60)]
    lab = Lab(limits=Limits(foresees=False)).join()
    lab.register(*specs)
    for number in range(300):
        asked(lab, specs[number % 30 if number < 220 else 30 + number % 3])
    assert MEMORIES[lab.state.asks.best] == min(MEMORIES)


def test_worth_is_told_in_words():
    """Frequency, last use and the way back, with their numbers."""
    lab = Lab().join()
    lab.register(A)
    asked(lab, A)
    told = str(worth(lab.state, A.item, VRAM, lab.now_s, lab.limits))
    assert told.startswith("asked for 1.0 times of late (a memory of ")
    assert told.endswith("ms to bring it back")


def test_memory_below_a_seat_is_worth_less_while_the_seat_answers():
    """A copy in RAM saves the way from the disk, and only if the seat is lost."""
    lab = Lab().join()
    lab.register(A, B, at=(RAM,))
    lab.want(A)
    seated, cold = (worth(lab.state, spec.item, RAM, lab.now_s, lab.limits).reload_s for spec in (A, B))
    assert 0 < seated < cold
