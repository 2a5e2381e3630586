"""What an order to warm would come to: how soon, whom it evicts, whom it waits for, or why not."""

from placement.hints import forecast
from placement.messages import Seen, WarmCancelled, WarmOrdered
from tests.placement.brain_lab import MIB, VRAM, Lab, role

A, B, C = role("a"), role("b"), role("c")


def told(lab, spec, within_s=30.0):
    """Return what an order to warm an item would come to now."""
    return forecast(lab.state, spec.item, within_s, lab.now_s, lab.limits)


def seated(*specs):
    """Return a lab in which these were served a while ago."""
    lab = Lab().join()
    lab.register(A, B, C)
    for spec in specs:
        lab.do(lab.want(spec))
        lab.now_s += 5.0
    return lab


def test_what_is_there_is_ready_at_once():
    """Nothing moves for it."""
    assert told(seated(A), A).eta_s == 0.0


def test_with_a_free_seat_it_takes_as_long_as_its_bytes():
    """The copies before it took 0.1 s for 10 MiB."""
    answer = told(seated(A), B)
    assert (round(answer.eta_s, 2), answer.evicts) == (0.1, ())


def test_with_all_seats_taken_it_says_who_leaves():
    """One seat is enough."""
    assert len(told(seated(A, B), C).evicts) == 1


def test_while_all_seats_are_in_use_it_says_for_whom_it_waits():
    """Nobody can tell how long; that is no refusal."""
    lab = seated(A, B)
    lab.see(VRAM, A, B, seen=Seen(leases=1, hits=5))
    answer = told(lab, C)
    assert (answer.eta_s, answer.refusal, set(answer.waits_for)) == (None, None, {A.item, B.item})


def test_what_cannot_be_in_time_is_refused_with_its_numbers():
    """The reason says bytes, seconds and the time that was given."""
    code, reason = told(seated(A), B, within_s=0.05).refusal
    assert code == "TRC028"
    assert (
        reason == "b@1 cannot be warm in time: its 10.0 MiB take 100ms to desk:VRAM(cpu), and 50ms are given"
    )


def test_where_those_stay_who_live_there_it_is_refused_with_the_arithmetic():
    """Who is at home in VRAM is nobody's room."""
    lab = Lab().join()
    lives = [role(name, home=VRAM) for name in "xy"]
    lab.do(lab.register(*lives, C))
    lab.now_s += 5.0
    code, reason = told(lab, C).refusal
    assert code == "TRC022"
    assert "2 seats for base small, and 2 are taken: x (idle), y (idle)" in reason


def test_where_no_node_offers_its_place_it_is_refused():
    """Its engine has not joined yet: nothing is known of its room."""
    lab = Lab()
    lab.register(A)
    assert told(lab, A).refusal == ("TRC021", "a@1 cannot be warmed: no node offers desk:VRAM(cpu)")


def test_an_order_taken_back_keeps_nobody_in_a_seat():
    """Neither the order nor the announcement stands any longer."""
    lab = seated(A)
    large = role("large", nbytes=50 * MIB)
    lab.register(large)
    lab.tell(WarmOrdered(large.item, "maybe", 30.0))
    lab.tell(WarmCancelled(large.item, "the user"))
    assert large.item not in lab.state.warms
    assert large.item not in lab.state.expected
