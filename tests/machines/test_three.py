"""One Ray of three raylets: where actors land, and what becomes of them when their node dies and returns."""

import pytest
import ray

from actors.nodes import actor_options, selectors
from tests.waiting import until

pytestmark = pytest.mark.ray

NODES = {"desk", "attic", "cellar"}


class Answering:
    """Says on which node it runs."""

    def node(self):
        return ray.get_runtime_context().get_node_labels()["tierce/node"]


def hire(name, node):
    """An actor with the options of a lab's actors, on a node of that name."""
    selector = selectors([node])[node]
    return ray.remote(Answering).options(**actor_options("nobody", name, selector)).remote()


def test_an_actor_of_a_lab_lands_on_the_node_that_it_names(machines):
    """Each of the three nodes gets exactly the actors that are pinned to it."""
    assert machines.sees() >= NODES
    found = {node: ray.get(hire(f"on-{node}", node).node.remote(), timeout=60) for node in NODES}
    assert found == {node: node for node in NODES}
    for node in NODES:
        ray.kill(ray.get_actor(f"on-{node}", namespace="nobody"))


@pytest.mark.soak
def test_an_actor_comes_back_with_its_node(machines):
    """Kill -9 of a raylet is noticed within 30 s; an actor waits for its node and is reborn there."""
    actor = hire("returning", "cellar")
    assert ray.get(actor.node.remote(), timeout=60) == "cellar"
    machines.kill_raylet("cellar")
    until(lambda: "cellar" not in machines.sees(), within_s=30)
    machines.add_node("cellar")
    until(lambda: answers(actor), within_s=60)
    assert ray.get(actor.node.remote(), timeout=10) == "cellar"
    ray.kill(actor)


def answers(actor):
    """Tell whether an actor answers."""
    try:
        ray.get(actor.node.remote(), timeout=2)
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
        return False
    return True
