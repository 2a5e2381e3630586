"""Settings without effect are named."""

from placement.config import load
from placement.config.unserved import unserved

PLAIN = "roles: {coder: {lora_path: ./coder, location: RAM, pin: true, unload: {idle: 5min}}}"


def test_a_file_that_uses_only_what_is_served_names_nothing():
    """The settings that have an effect are not in the list."""
    assert list(unserved(load(PLAIN + "\npolicy: {want_deadline: 5s}", {}))) == []


def test_what_is_served_is_not_named():
    """Consults, warm and unload rules, every tier, devices, indexes alone and the marks of pressure work."""
    text = """
nodes: {local: {vram: {"cuda:0": 1GiB, "cuda:1": 1GiB}}}
bases: {m: {model: ./m, device: "cuda:0"}}
roles:
  coder: {lora_path: ./coder, location: RAM, warm: {at_start: true, after: [critic]}, consults: [critic]}
  critic: {lora_path: org/critic, location: network, activated_by: [coder]}
  poet: {lora_path: org/poet, location: SSD, unload: {to: network, at: "0 20 * * *"}}
  sage: {lora_path: ./sage, location: VRAM, device: "cuda:0"}
rag:
  hot: {location: VRAM, device: "cuda:0", source: ./docs, warm: {at_start: true}, unload: {idle: 5min}}
  old: {location: RAM, path: ./index}
  far: {location: network, url: "http://q", collection: c}
policy: {vram_high: 95%, ram_low: 50%, ssd_high: 99%, want_deadline: 5s}
"""
    assert list(unserved(load(text, {}))) == []


def test_each_setting_without_effect_is_named_by_its_path():
    """More engines of a base, tenants, the other policies, the HTTP door, and moves of what cannot move."""
    text = """
nodes: {local: {vram: {"cuda:0": 1GiB, "cuda:1": 1GiB}}}
bases: {m: {model: ./m, replicas: {min: 1, max: 2}}}
rag:
  docs: {location: RAM, source: ./docs, tenant_key: team}
  far: {location: network, url: "http://q", collection: c, pin: true, warm: {at_start: true}}
policy: {score: {cost: 1}, lease: 5s, warm_ahead: false}
serve: {port: 9000}
"""
    assert list(unserved(load(text, {}))) == [
        "bases.m.replicas.max: 1 of 2 engines are started",
        "rag.docs.tenant_key",
        "rag.far.pin: what rests on a server stays there",
        "rag.far.warm: what rests on a server stays there",
        "policy.lease",
        "serve",
    ]
