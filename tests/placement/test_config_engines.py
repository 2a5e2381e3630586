"""How many engines a base has in a file, on which nodes and devices, and what cannot be."""

import pytest

from placement.config import ConfigError, load
from placement.config.engines import base_of_engine, engines

TWO = "nodes: {a: {vram: 1GiB}, b: {vram: 1GiB}, c: {ram: 1GiB}}\n"
GPUS = 'nodes: {a: {vram: {"cuda:0": 8GiB, "cuda:1": 8GiB}}, b: {vram: {cpu: 8GiB, "cuda:0": 8GiB}}}\n'
BOTH = "replicas: {min: 2, max: 2}"


def seats(text):
    """Return node and device of each engine of a file."""
    return {name: (engine.node, engine.device) for name, engine in engines(load(text, {})).items()}


def fault(text):
    """Return the only problem of a file, without its line."""
    with pytest.raises(ConfigError) as refused:
        load(text, {})
    (problem,) = [str(each) for each in refused.value.problems if each.severity == "error"]
    return problem.partition(" ")[2]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("bases: {m: {model: x}}\n", {"m": ("local", "auto")}),
        (TWO + f"bases: {{m: {{model: x, {BOTH}}}}}\n", {"m": ("a", "auto"), "m#2": ("b", "auto")}),
        (
            TWO + f"bases: {{m: {{model: x, node: [b, a], device: cpu, {BOTH}}}}}\n",
            {"m": ("b", "cpu"), "m#2": ("a", "cpu")},
        ),
        (
            GPUS + "bases: {m: {model: x, device: cuda, replicas: {min: 3, max: 3}}}\n",
            {"m": ("a", "cuda:0"), "m#2": ("b", "cuda:0"), "m#3": ("a", "cuda:1")},
        ),
        (
            GPUS + f"bases: {{m: {{model: x, node: a, {BOTH}}}}}\n",
            {"m": ("a", "cuda:0"), "m#2": ("a", "cuda:1")},
        ),
        (TWO + "bases: {m: {model: x, node: a, replicas: {min: 1, max: 1}}}\n", {"m": ("a", "auto")}),
    ],
)
def test_each_engine_has_a_device_to_itself(text, found):
    """One on each node before a second one on any, in the order of `node` or of the nodes with VRAM."""
    assert seats(text) == found
    assert {base_of_engine(name) for name in found} == {"m"}


@pytest.mark.parametrize(
    ("base", "told"),
    [
        (
            "replicas: {min: 3, max: 3}",
            "bases.m.replicas.max: 3 engines on 2 devices; each needs one of its own [CFG035]",
        ),
        (
            f"node: [a], {BOTH}",
            "bases.m.replicas.max: 2 engines on 1 device of a; each needs one of its own [CFG035]",
        ),
        ("replicas: {min: 2, max: 1}", "bases.m.replicas: min 2 is more than max 1 [CFG034]"),
        ("node: [a, b]", "bases.m.node: 2 nodes for one engine; write replicas: {min: 2, max: 2} [CFG034]"),
        (f"node: [a, d, b], {BOTH}", "bases.m.node[1]: unknown node 'd'; one of a, b, c [CFG030]"),
        (f"node: [a, b, a], {BOTH}", "bases.m.node[2]: 'a' is named twice [CFG027]"),
        (f"node: [a, 3], {BOTH}", "bases.m.node[1]: expected the name of a node [CFG022]"),
    ],
)
def test_engines_that_cannot_be_are_refused(base, told):
    """More than there are devices, fewer than there are nodes for, and nodes that are none."""
    assert fault(TWO + f"bases: {{m: {{model: x, {base}}}}}\n").partition("(")[0].strip() == told


def test_a_role_is_at_home_in_vram_where_an_engine_is():
    """Of several engines each node of one will do, and no other."""
    text = (
        TWO
        + f"bases: {{m: {{model: x, {BOTH}}}}}\nroles: {{r: {{lora_path: y, location: VRAM, node: %s}}}}\n"
    )
    assert load(text % "b", {}).roles["r"].node == "b"
    told = "roles.r.node: a home in VRAM is on the node of the engine: 'm' runs on 'a' and 'b' [CFG031]"
    assert fault(text % "c") == told


def test_which_engine_a_role_is_at_home_in_is_not_said_by_the_file():
    """Roles without a node are dealt to the engines, when these run."""
    text = TWO + f"bases: {{m: {{model: x, {BOTH}}}}}\nroles: {{r: {{lora_path: y, location: VRAM}}}}\n"
    assert load(text, {}).roles["r"].node is None
