"""Settings without effect are named."""

from placement.config import load
from placement.config.unserved import unserved

PLAIN = "roles: {coder: {lora_path: ./coder, location: RAM, pin: true, unload: {idle: 5min}}}"


def test_a_file_that_uses_only_what_is_served_names_nothing():
    """The settings that have an effect are not in the list."""
    assert list(unserved(load(PLAIN + "\npolicy: {want_deadline: 5s}", {}))) == []


def test_each_setting_without_effect_is_named_by_its_path():
    """Warm rules, consults, network places, indexes alone, other policies and the HTTP door are named."""
    text = """
nodes: {local: {vram: {"cuda:0": 1GiB, "cuda:1": 1GiB}}}
bases: {m: {model: ./m, replicas: {min: 1, max: 2}}}
roles:
  coder: {lora_path: ./coder, location: RAM, warm: {at_start: true}, consults: [critic]}
  critic: {lora_path: org/critic, location: network}
  poet: {lora_path: ./poet, location: SSD, unload: {to: network}}
rag:
  hot:
    {location: VRAM, device: "cuda:0", source: ./docs, tenant_key: team, warm: {at_start: true},
     unload: {idle: 5min}}
  old: {location: RAM, path: ./index}
policy: {vram_high: 95%}
serve: {port: 9000}
"""
    assert list(unserved(load(text, {}))) == [
        "roles.coder.consults",
        "roles.coder.warm",
        "rag.hot.warm",
        "rag.hot.unload",
        "rag.hot.tenant_key",
        "rag.hot.device",
        "bases.m.replicas",
        "roles.critic.location: network",
        "roles.poet.unload.to: network",
        "rag.hot.location: VRAM",
        "rag.old.path without source",
        "policy, want_deadline excepted",
        "serve",
    ]
