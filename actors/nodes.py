"""The machines of a lab as Ray sees them: which are there, how an actor is pinned to one, how one joins."""

from __future__ import annotations

from typing import Any

import ray

from actors.head import join_command
from placement.errors import WorldError

#: Room in the object store beside the RAM tier: images on their way between places.
TRANSFER_NBYTES = 128 << 20


def ray_nodes() -> list[dict[str, Any]]:
    """Return what Ray says of each node that is alive."""
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def gpus(selector: dict[str, str]) -> int:
    """Return how many GPUs Ray can give on the node with these labels."""
    found = (node for node in ray_nodes() if selector.items() <= node["Labels"].items())
    return max((int(node["Resources"].get("GPU", 0)) for node in found), default=0)


def store_capacity(selector: dict[str, str]) -> int:
    """Return the bytes of the object store on the node with these labels; 0 if there is no such node."""
    found = (node for node in ray_nodes() if selector.items() <= node["Labels"].items())
    return max((int(node["Resources"].get("object_store_memory", 0)) for node in found), default=0)


def selectors(names: list[str]) -> dict[str, dict[str, str]]:
    """Return the Ray label selector of each node that Ray sees of those that the file names, in their order.

    A node is the Ray node with the label `tierce/node=<name>`. On a Ray of one machine, a lab of one node is
    that machine.
    """
    alive = ray_nodes()
    labels = {node["Labels"].get("tierce/node") for node in alive}
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if name in labels:
            found[name] = {"tierce/node": name}
        elif len(names) == 1 and len(alive) == 1:
            found[name] = {"ray.io/node-id": alive[0]["NodeID"]}
    return found


def object_store_nbytes(ram: int) -> int:
    """Return how large a node's object store is to be for a RAM tier of `ram` bytes: it carries that tier."""
    return int(ram * 1.3) + TRANSFER_NBYTES


def not_seen(name: str, ram: int | None) -> WorldError:
    """Return the error for a node that the file names and Ray does not see: TRC041, with the join command.

    `ram` is what the file gives to its RAM tier.
    """
    store_nbytes = None if ram is None else object_store_nbytes(ram)
    line = join_command(ray.get_runtime_context().gcs_address, name, store_nbytes=store_nbytes)
    labels = (node["Labels"].get("tierce/node") for node in ray_nodes())
    seen = ", ".join(sorted(label for label in labels if label)) or "none with a label"
    return WorldError(
        "TRC041",
        f"the file names node {name!r}, and Ray does not see it (it sees {seen})",
        f"on that machine: {line}",
    )


def actor_options(lab: str, name: str, selector: dict[str, str]) -> dict[str, Any]:
    """Return how an actor of a lab is made: detached, pinned, found by its name, restarted always."""
    return {
        "name": name,
        "namespace": lab,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "label_selector": selector,
        "max_restarts": -1,
        "max_task_retries": 0,
    }
