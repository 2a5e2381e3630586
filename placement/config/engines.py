"""The engines of a lab: of each base as many as always run, each on a node and device of its own."""

from dataclasses import dataclass
from itertools import zip_longest

from placement.config.schema import Base, Lab, Node

_MARK = "#"


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine of a base. Its name is the base's, of further ones `small#2` and so on.

    Without a node it runs on the lab's first one.
    """

    name: str
    base: Base
    node: str | None
    device: str


def base_of_engine(engine: str) -> str:
    """Return the base of an engine, by its name."""
    return engine.partition(_MARK)[0]


def engines(lab: Lab) -> dict[str, Engine]:
    """Return the engines that always run, by name, in the order of the file.

    A base with one engine has it where the file says. Of more, each has a device of a node to itself: by the
    order of its `node`, or of the nodes with VRAM, one on each node before a second one on any.
    """
    found = {}
    for name, base in lab.bases.items():
        taken = [(base.on[0] if base.on else None, base.device)]
        if base.replicas.min > 1:
            taken = devices_for(lab, base)[: base.replicas.min]
        for number, (node, device) in enumerate(taken, start=1):
            engine = name if number == 1 else f"{name}{_MARK}{number}"
            found[engine] = Engine(engine, base, node, device)
    return found


def devices_for(lab: Lab, base: Base) -> list[tuple[str | None, str]]:
    """Return each (node, device) on which an engine of a base may run, in the order of their taking."""
    names = base.on or tuple(name for name, node in lab.nodes.items() if node.vram is not None)
    nodes = [lab.nodes[name] for name in names or lab.nodes if name in lab.nodes]
    by_node = [[(node.name, device) for device in _devices(node, base.device)] for node in nodes]
    return [each for row in zip_longest(*by_node) for each in row if each is not None]


def _devices(node: Node, device: str) -> list[str]:
    listed = node.vram if isinstance(node.vram, dict) else {}
    fit = [one for one in listed if device == "auto" or (device == "cuda" and one != "cpu")]
    return fit or [device]
