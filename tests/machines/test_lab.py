"""A lab over three nodes: what is said of where things are is where they are, and they work together."""

import os
import signal
from pathlib import Path

import pytest

from actors.errors import UnknownName
from actors.journal import Journal
from tests.waiting import until

pytestmark = pytest.mark.ray


def nodes_of(lab):
    """Return the node that each actor is on, as `ps` says."""
    return {member.name: member.node for member in lab.ps().members}


def test_each_actor_and_each_item_is_on_the_node_of_the_file(lab):
    """Roles, shards, stores and the engine are pinned where the file says, and so are their bytes."""
    for role in ("coder", "artist"):
        lab.unload(role)
    where = nodes_of(lab)
    assert (where["engine:small"], where["role:coder"], where["role:artist"]) == ("desk", "attic", "cellar")
    assert (where["shard:war"], where["shard:bread"]) == ("attic", "cellar")
    homes = {thing.name: (thing.home, thing.tier) for thing in lab.ps().things}
    assert homes["coder"] == ("attic:RAM", "RAM")
    assert homes["artist"] == ("cellar:SSD", "SSD")
    assert homes["war"] == ("attic:RAM", "RAM")


def test_a_role_away_from_its_engine_answers_through_it(lab):
    """An ask copies the adapter from its node to the engine of its base, and cites its shard."""
    lab.unload("artist")
    answer = lab.ask("artist", "When does the baker knead?")
    assert answer.end.activation.source == "SSD"
    assert answer.citations[0].document == "bread.md"
    assert "desk:VRAM(cpu) ready" in lab.ps().thing("artist").copies


def test_a_role_moves_to_another_node_and_takes_its_durable_copy_along(lab):
    """`move --node` begins the role anew there, with its adapter; the old node keeps nothing of it."""
    words = lab.ask("coder", "Hello?").text
    thing = lab.move("coder", node="cellar")
    assert thing.home == "cellar:RAM"
    assert {copy.partition(":")[0] for copy in thing.copies} <= {"cellar", "desk"}
    assert "cellar:SSD ready" in thing.copies
    assert nodes_of(lab)["role:coder"] == "cellar"
    answer = lab.ask("coder", "Hello?")
    assert answer.text == words
    back = lab.move("coder", to="RAM", node="attic")
    assert (back.home, nodes_of(lab)["role:coder"]) == ("attic:RAM", "attic")
    assert lab.ask("coder", "Hello?").text == words


def test_a_node_that_the_file_does_not_have_is_refused(lab):
    """A move to a node of another lab names the nodes there are."""
    with pytest.raises(UnknownName, match="no node 'loft'"):
        lab.move("coder", node="loft")


def test_a_move_that_was_cut_off_takes_the_roles_actor_along_too(lab):
    """A coordinator killed right after it wrote a move down: the next one moves adapter and actor."""
    words = lab.ask("coder", "Hello?").text
    journal = Journal.open(Path(os.environ["TIERCE_HOME"]) / lab.name / "journal.db")
    journal.order(f"coder@{lab.ps().thing('coder').version}", "home", ["cellar", "RAM", ""])
    journal.close()
    epoch = lab.ps().epoch
    os.kill(next(member.pid for member in lab.ps().members if member.name == "coordinator"), signal.SIGKILL)
    until(lambda: lab.ps().epoch > epoch)
    until(lambda: "cellar:RAM ready" in lab.ps().thing("coder").copies)
    assert nodes_of(lab)["role:coder"] == "cellar"
    assert lab.ask("coder", "Hello?").text == words
    lab.move("coder", to="RAM", node="attic")
