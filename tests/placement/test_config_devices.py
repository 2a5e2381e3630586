# ruff: noqa: E501  (messages stand here as they are printed)
"""Devices: what rests in VRAM lies in the engine of a base, and that is on one device of one node."""

import pytest

from placement.config import ConfigError, load

TWO_GPUS = "nodes: {desk: {vram: {cuda:0: 8GiB, cuda:1: 8GiB}}, attic: {vram: 8GiB}}\n"


def said(text: str) -> list[str]:
    """What is wrong with a text, without the places; empty if it loads."""
    try:
        load(text, {})
    except ConfigError as error:
        return [
            f"{one.path}: {one.message} [{one.code}]" for one in error.problems if one.severity == "error"
        ]
    return []


def role(fields: str, base: str = "model: x, node: desk, device: 'cuda:0'") -> list[str]:
    """What is wrong with a role of the two GPUs whose base is such."""
    return said(f"{TWO_GPUS}bases: {{m: {{{base}}}}}\nroles: {{r: {{lora_path: x, {fields}}}}}\n")


def shard(fields: str, *bases: str) -> list[str]:
    """What is wrong with a shard of the two GPUs beside such bases."""
    entries = ", ".join(f"b{number}: {{model: x, {base}}}" for number, base in enumerate(bases))
    return said(f"{TWO_GPUS}bases: {{{entries}}}\nrag: {{s: {{source: d, {fields}}}}}\n")


@pytest.mark.parametrize("device", ["cuda:0", "auto", "cuda"])
def test_a_role_may_name_the_device_of_its_base(device):
    """Word for word, or in a way that this device fulfils."""
    assert role(f"location: VRAM, device: '{device}'") == []


def test_a_role_in_vram_is_on_the_device_of_its_base():
    """Another device is CFG031, and the way to have it is another base."""
    assert role("location: VRAM, device: 'cuda:1'") == [
        (
            "roles.r.device: an adapter rests on the device of its base, and 'm' is on cuda:0; "
            "add a base with the same model on cuda:1 [CFG031]"
        )
    ]


def test_of_several_devices_auto_is_none_in_particular():
    """Where the node lists two GPUs, a base on auto cannot promise one of them; where it lists one, it can."""
    assert role("location: VRAM, device: 'cuda:1'", "model: x, node: desk") == [
        (
            "roles.r.device: an adapter rests on the device of its base, and 'm' is on auto; "
            "add a base with the same model on cuda:1, or write device: cuda:1 at 'm' [CFG031]"
        )
    ]
    assert role("location: VRAM, device: 'cuda:0', node: attic", "model: x, node: attic") == []
    one = "nodes: {desk: {vram: {cuda:0: 8GiB}}}\nbases: {m: {model: x}}\n"
    assert said(one + "roles: {r: {lora_path: x, location: VRAM, device: 'cuda:0'}}\n") == []


def test_a_device_that_the_node_lacks_is_said_once():
    """CFG037 for the device, and nothing of the base's beside it."""
    assert role("location: VRAM, device: 'cuda:7'") == [
        "roles.r.device: the node 'desk' has no vram of cuda:7; one of cuda:0, cuda:1 [CFG037]"
    ]


def test_a_device_is_for_what_rests_in_vram():
    """Main memory and disks have none: CFG031."""
    assert role("location: RAM, device: 'cuda:0'") == [
        "roles.r.device: a device is for VRAM; the location is RAM [CFG031]"
    ]


def test_the_device_of_a_base_that_no_file_lists_is_not_known():
    """A base that only the adapter names is on auto."""
    one = "roles: {r: {lora_path: x, location: VRAM, device: 'cuda:1', node: desk}}\n"
    assert said(TWO_GPUS + one) == [
        "roles.r.device: its base is not listed, so its device is not known; list it with device: cuda:1 [CFG031]"
    ]
    assert said("nodes: {desk: {vram: 8GiB}}\n" + one) == []


def test_an_index_in_vram_needs_an_engine_on_its_node():
    """It lies in the engine's process; a node without one cannot hold it: CFG031 names those that can."""
    assert shard("location: VRAM, node: attic", "node: desk") == [
        "rag.s.location: an index in VRAM lies in an engine, and none runs on 'attic'; engines run on: desk [CFG031]"
    ]
    assert said("rag: {s: {location: VRAM, source: d}}\n") == [
        "rag.s.location: an index in VRAM lies in an engine, and none runs on 'local'; the file lists no bases [CFG031]"
    ]
    assert said("roles: {r: {lora_path: x, location: RAM}}\nrag: {s: {location: VRAM, source: d}}\n") == []


def test_an_index_in_vram_needs_an_engine_on_its_device():
    """With an engine on another device only, a base is missing: CFG031."""
    assert shard("location: VRAM, node: desk, device: 'cuda:1'", "node: desk, device: 'cuda:0'") == [
        (
            "rag.s.device: an index in VRAM lies in an engine, and on 'desk' these are on cuda:0; "
            "add a base with the same model on cuda:1 [CFG031]"
        )
    ]
    both = ("node: desk, device: 'cuda:0'", "node: desk, device: 'cuda:1'")
    assert shard("location: VRAM, node: desk, device: 'cuda:1'", *both) == []
    assert shard("location: VRAM, node: attic, device: 'cuda:0'", "node: attic") == []


def test_an_index_says_which_of_two_devices():
    """Where engines of the node are on two devices, the shard names one: CFG025."""
    both = ("node: desk, device: 'cuda:0'", "node: desk, device: 'cuda:1'")
    assert shard("location: VRAM, node: desk", *both) == [
        "rag.s: which device? device: one of cuda:0, cuda:1 [CFG025]"
    ]
    assert shard("location: VRAM, node: desk", "node: desk, device: 'cuda:1'") == []


def test_a_kv_cache_has_to_fit_into_its_device():
    """The other device of the node gives it no room: CFG032."""
    text = "nodes: {desk: {vram: {cuda:0: 2GiB, cuda:1: 8GiB}}}\nbases: {m: {model: x, kv_cache: 4GiB, device: 'DEVICE'}}\n"
    assert said(text.replace("DEVICE", "cuda:0")) == [
        "bases.m.kv_cache: 4.0 GiB do not fit into the 2.0 GiB of 'desk', cuda:0 [CFG032]"
    ]
    assert said(text.replace("DEVICE", "cuda:1")) == []


@pytest.mark.parametrize(
    "text",
    [
        "bases: {m: {model: x, device: cud}}\nroles: {r: {lora_path: x, location: VRAM, device: 'cuda:1'}}",
        "roles: [r]\nrag: {s: {location: VRAM, source: d}}",
        "bases: [m]\nrag: {s: {location: VRAM, source: d}}",
        "bases: {m: {model: x, node: dsk}}\nnodes: {desk: {vram: 8}}\nrag: {s: {location: VRAM, source: d}}",
        "bases: {m: {model: x}}\nrag: {s: {location: VRAM, source: d, device: cud}}",
        "bases: {m: {model: x}}\nroles: {r: {lora_path: x, location: RM, device: 'cuda:1'}}",
    ],
)
def test_a_refused_value_is_in_no_contradiction_of_devices(text):
    """Where a device, a base or a location was refused, nothing is said of what it would have meant."""
    assert all("[CFG031]" not in fault for fault in said(text + "\n"))
    assert said(text + "\n")
