from placement.messages import NodeLost
from placement.routes import best_source
from tests.placement.brain_lab import ATTIC_RAM, ATTIC_SSD, LOG, RAM, SSD, VRAM, Lab, role, shard


def lab_with(spec, *places):
    """Return a lab in which a beat showed the item at each place."""
    lab = Lab(policies=()).join()
    lab.register(spec)
    lab.now_s = 1.0
    for place in places:
        lab.see(place, spec)
    return lab


def test_the_nearest_source_is_read():
    """Same node before another, RAM before SSD."""
    spec = role("a", durable=ATTIC_SSD)
    lab = lab_with(spec)
    order = [ATTIC_SSD, ATTIC_RAM, SSD, RAM]
    for place in order:
        lab.now_s += 1
        lab.see(place, spec)
        assert best_source(lab.state, spec.item, VRAM) == place


def test_vram_and_the_target_itself_are_no_sources():
    """A copy reads an image, and not the one it writes."""
    lab = lab_with(role("a"), VRAM, RAM)
    assert best_source(lab.state, role("a").item, RAM) == SSD


def test_a_lost_node_is_no_source():
    """What only a lost node holds has no source."""
    spec = role("a", durable=ATTIC_SSD)
    lab = lab_with(spec)
    lab.tell(NodeLost("attic", "gone"))
    assert best_source(lab.state, spec.item, VRAM) is None


def test_a_shard_is_moved_from_its_index_before_it_is_rebuilt_from_its_log():
    """The log is the last resort, because reading it means building the index again."""
    spec = shard("s")
    lab = lab_with(spec)
    assert best_source(lab.state, spec.item, RAM) == LOG
    lab.now_s = 2.0
    lab.see(SSD, spec)
    assert best_source(lab.state, spec.item, RAM) == SSD
