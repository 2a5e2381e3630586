"""What comes back soon after it was unloaded stays longer the next time, and not for ever."""

from placement.messages import Beat, Drop, Removed, Seen, Tick
from tests.placement.brain_lab import VRAM, Lab, role

SPEC = role("a", idle_s=10.0)


def idle(lab, seconds):
    """Let time pass, a second at a time; return after how long the item left VRAM, None if it stayed."""
    for passed in range(1, seconds + 1):
        lab.now_s += 1.0
        commands = lab.tell(Beat("desk", lab.now_s, {})) + lab.tell(Tick())
        drops = [command for command in commands if isinstance(command, Drop)]
        lab.do(drops)
        if any(drop.place == VRAM for drop in drops):
            return passed
    return None


def served():
    """Return a lab that has just served the item."""
    lab = Lab().join()
    lab.register(SPEC)
    lab.do(lab.want(SPEC))
    return lab


def test_who_is_back_soon_after_unloading_stays_twice_as_long():
    """Idle after ten seconds, back after twelve: then it takes twenty."""
    lab = served()
    assert idle(lab, 30) == 10
    lab.now_s += 2.0
    lab.do(lab.want(SPEC))
    assert idle(lab, 30) == 20


def test_patience_has_an_end():
    """Again and again: never longer than four times."""
    lab = served()
    left = []
    for _ in range(5):
        left.append(idle(lab, 60))
        lab.do(lab.want(SPEC))
    assert left == [10, 20, 40, 40, 40]


def test_nobody_is_patient_with_who_leaves_the_lab():
    """It is still in use when it is removed, and nothing of its coming and going counts any longer."""
    lab = served()
    idle(lab, 30)
    lab.now_s += 2.0
    lab.do(lab.want(SPEC))
    lab.see(VRAM, SPEC, seen=Seen(leases=1, hits=1))
    assert SPEC.item in lab.state.patience
    lab.tell(Removed(SPEC.item))
    assert SPEC.item in lab.state.items
    assert SPEC.item not in lab.state.patience


def test_patience_fades():
    """Long after it flapped, the file's idle time holds again."""
    lab = served()
    idle(lab, 30)
    lab.do(lab.want(SPEC))
    idle(lab, 300)
    idle(lab, 300)
    lab.do(lab.want(SPEC))
    assert idle(lab, 30) == 10
