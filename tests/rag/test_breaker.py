"""When an address that keeps failing may be tried again: a clock of the test's own, and no network."""

from actors.rag.breaker import Breaker


def test_it_shuts_after_so_many_failures_in_a_row():
    """An answer in between starts the count anew."""
    breaker = Breaker(failures=2, first_s=4.0)
    breaker.failed(0.0)
    breaker.passed()
    breaker.failed(1.0)
    assert breaker.enter(1.0) == 0
    breaker.failed(2.0)
    assert breaker.enter(3.0) == 3.0


def test_after_the_pause_one_caller_goes_ahead():
    """The others wait for what it finds; if it never tells, for another pause."""
    breaker = Breaker(failures=1, first_s=4.0)
    breaker.failed(0.0)
    assert [breaker.enter(4.0), breaker.enter(4.0), breaker.enter(8.0)] == [0, 4.0, 0]
    breaker.passed()
    assert [breaker.enter(8.0), breaker.enter(8.0)] == [0, 0]


def test_the_pause_doubles_up_to_a_bound():
    """Each further failure doubles it; the longest is never passed, however many there were."""
    breaker = Breaker(failures=1, first_s=2.0, most_s=10.0)
    pauses = []
    for _ in range(2000):
        breaker.failed(0.0)
        pauses.append(breaker.enter(0.0))
    assert pauses[:4] == [2.0, 4.0, 8.0, 10.0]
    assert pauses[-1] == 10.0
