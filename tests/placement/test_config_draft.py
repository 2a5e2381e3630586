# ruff: noqa: E501  (messages stand here as they are printed)
"""All problems at once: what is wrong with one value does not hide what is wrong with the others."""

import pytest

from placement.config import ConfigError, load


def faults(text: str) -> list[str]:
    """The errors of a text that cannot be loaded, from the path on, without the unknown fields."""
    with pytest.raises(ConfigError) as caught:
        load(text, {})
    return [line.partition(" ")[2] for line in str(caught.value).splitlines() if "[CFG020]" not in line]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("policy: {vram_low: 95%, vram_high: 90%, leese: 5s}", "policy.vram_low: vram_low 95% is not below vram_high 90% [CFG034]"),
        ("serve: {host: 0.0.0.0, prt: 1}", "serve.host: the host '0.0.0.0' can be reached by others; add api_keys, or listen on 127.0.0.1 [CFG050]"),
        ("rag: {s: {location: RAM, source: d, url: x, tennant: y}}", "rag.s.url: url is for location: network; the location is RAM [CFG031]"),
        ("rag: {s: {location: RAM, foo: y}}", "rag.s: source (documents to build it from) or path (an index that exists) is missing [CFG025]"),
        ("bases: {m: {model: x, foo: y, replicas: {min: 2}}}", "bases.m.replicas: min 2 is more than max 1 [CFG034]"),
        ("roles: {r: {lora_path: x, location: RAM, name: r, unload: {to: VRAM}}}", "roles.r.unload.to: VRAM is above its home RAM; unloading goes to its home or below [CFG034]"),
    ],
)  # fmt: skip
def test_an_unknown_field_does_not_hide_a_contradiction(text, fault):
    """Beside a misspelt field the rest of the entry is judged as it stands."""
    assert faults(text + "\n") == [fault]


@pytest.mark.parametrize(
    ("text", "refused", "fault"),
    [
        ("policy: {vram_low: 95%, vram_high: 90%, lease: 5}", "policy.lease", "policy.vram_low"),
        ("roles: {r: {lora_path: x, location: RAM, pin: 1, unload: {to: VRAM}}}", "roles.r.pin", "roles.r.unload.to"),
        ("rag: {s: {location: RAM, url: x, unload: {idle: 5}}}", "rag.s.unload.idle", "rag.s.url"),
        ("roles: {r: {lora_path: ./x, location: RAM, unload: {to: network, idle: 5}}}", "roles.r.unload.idle", "roles.r.unload.to"),
        ("bases: {m: {model: x, slots: 0, kv_cache: 2GiB}}\nnodes: {a: {vram: 1GiB, ram: 5}}", "nodes.a.ram", "bases.m.kv_cache"),
        ("serve: {host: 0.0.0.0, port: x}", "serve.port", "serve.host"),
    ],
)  # fmt: skip
def test_a_refused_value_does_not_hide_what_it_has_no_part_in(text, refused, fault):
    """A contradiction of other fields of the entry is found in the same run."""
    found = [line.partition(": ")[0] for line in faults(text + "\n")]
    assert {refused, fault} <= set(found)


@pytest.mark.parametrize(
    "text",
    [
        "policy: {vram_low: 95%, vram_high: 190%}",
        "serve: {host: 0.0.0.0, api_keys: [{name: a, hash: [b]}]}",
        "rag: {s: {location: nework, url: x}}",
        "rag: {s: {location: network, collection: c, url: [x]}}",
        "rag: {s: {location: network, url: x, api: qdrnt, map: {}}}",
        "rag: {s: {location: SSD, source: [d]}}",
        "rag: {s: {location: SSD, path: /i, node: 1}, t: {location: SSD, path: /i, node: local}}",
        "nodes: {a: {vram: 8, ram: 1GiB}}\nbases: {m: {model: x}}",
        "nodes: {a: {vram: {cuda:0: 1GiB, cuda:1: 2}}}\nbases: {m: {model: x, device: cuda:1, kv_cache: 2GiB}}",
        "nodes: {a: {vram: 8}, b: {ram: 1GiB}}\nbases: {m: {model: x}}",
        "nodes: {a: {vram: 64MiB}}\nbases: {m: {model: x, kv_cache: 32}}",
        "nodes: [a]\nrag: {s: {location: RAM, source: d}}",
        "bases: {m: {model: x, replicas: {min: 2, max: x}}}",
        "bases: {m: {model: x, slots: 0.5}}\nroles: {r: {lora_path: x, location: VRAM, pin: true}}",
        "bases: {m: {model: x}, n: {model: y}}\nroles: {r: {base: [m], lora_path: x, location: RAM}}",
        "nodes: {a: {vram: 1GiB}, b: {vram: 1GiB}}\nroles: {r: {node: 1, lora_path: x, location: RAM}}",
        "roles: {r: {lora_path: x, location: vrm, unload: {to: VRAM}}}",
        "roles: {r: {lora_path: x, location: RAM, consults: [s]}, s: {lora_path: x, location: RAM, activated_by: [1]}}",
        "policy: {ram_low: 99%, ram_high: 199%}",
        "rag: {s: {location: network, url: x, api: htp, map: {vector: v}}}",
    ],
)  # fmt: skip
def test_a_refused_value_is_in_no_contradiction(text):
    """Where a value was refused nothing is said of its default, so that one mistake is one error."""
    assert len(faults(text + "\n")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "policy: {vram_low: 95%, vram_hgh: 97%}",
        "serve: {host: 0.0.0.0, api_key: []}",
        "rag: {s: {location: RAM, sorce: d}}",
        "rag: {s: {location: network, url: x, colection: c}}",
    ],
)
def test_a_misspelt_field_counts_as_the_one_that_was_meant(text):
    """The field that the suggestion names is not called missing, nor judged by its default."""
    assert faults(text + "\n") == []
