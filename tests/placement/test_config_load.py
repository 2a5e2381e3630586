# ruff: noqa: E501  (the examples of the design stand here word for word)
"""What a right file becomes: the design's two examples, the defaults, and what is filled in."""

import pickle
from pathlib import Path

import pytest

from placement.config import Lab, load
from placement.config.schema import ENTRIES, Unload, fields_of
from placement.config.unserved import unserved
from placement.tiers import Tier

ROOT = Path(__file__).resolve().parents[2]

DESIGN = """
lab: athens
nodes:                                   # omit on one machine: discovered
  desk:  {vram: 20GiB, ram: 48GiB, ssd: {path: /nvme/tierce, budget: 400GiB}}
  attic: {ram: 96GiB, ssd: {path: /data/tierce, budget: 2TiB}}
bases:
  small: {model: ./examples/athens/base, node: desk, device: auto, dtype: auto, slots: 8, max_rank: 64, kv_cache: 2GiB,
          deterministic: true, threads: 1, replicas: {min: 1, max: 1}}
roles:
  philosopher:
    base: small                          # optional when there is one base
    lora_path: ./examples/athens/adapters/philosopher     # directory, HF id, or URL; read-only source
    location: VRAM                       # home tier: VRAM | RAM | SSD (also: disk) | network; any letter case
    node: desk
    description: "…"                     # for listing and routing
    persona: "You are …"                 # or persona_file
    rag: [plato, {shard: code, top_k: 2, required: false}]
    consults: []                         # roles it may ask
    activated_by: [user, coder]          # who may activate it: user, schedule, or role names; default: user
    warm: {after: [coder], at_start: true, at: "0 9 * * 1-5"}
    unload: {idle: 10min, to: RAM}       # when to unload, and where to; default: idle 10min, back to its home
    pin: false                           # true: never leaves its home
    generation: {temperature: 0.7, max_tokens: 200}
  coder: {lora_path: org/coder, location: network, rag: [papers, outside, hot]}
rag:
  plato:  {location: RAM, node: desk, source: ./examples/athens/docs/plato}
  code:   {location: SSD, node: attic, path: /mnt/ssd/rag_index_1, source: …}
  papers: {location: network, url: "http://qdrant:6333", collection: papers, api_key: "${QDRANT_KEY}"}
  outside: {location: network, api: http, url: "https://…", map: {query: q, text: body, score: score}}
  hot:    {location: VRAM, node: desk, device: cuda:0, source: …, pin: true, tenant_key: team}
policy:  {vram_high: 92%, vram_low: 85%, warm_ahead: true, want_deadline: 30s, lease: 60s,
          score: {frequency: 0.45, recency: 0.10, cost: 0.45}}
serve:   {host: 127.0.0.1, port: 8000, api_keys: [{name: me, hash: a5e88, scope: admin, roles: [coder]}],
          auto_route: false}
"""

MINIMAL = """
roles:
  philosopher: {lora_path: /mnt/vrag/philosopher, location: VRAM}
  coder:       {lora_path: /home/user/lora/coder, location: RAM}
  artist:      {lora_path: /mnt/slowdisk/artist, location: disk}
"""


@pytest.fixture(scope="module")
def design() -> Lab:
    """The long example of the design, with a key in the environment."""
    return load(DESIGN, {"QDRANT_KEY": "sesame"})


def test_the_minimal_form_loads_as_it_is():
    """Three roles with a path and a tier are a lab on one machine; the base is found out later."""
    lab = load(MINIMAL, {})
    assert [(role.name, role.lora_path, role.location) for role in lab.roles.values()] == [
        ("philosopher", "/mnt/vrag/philosopher", Tier.VRAM),
        ("coder", "/home/user/lora/coder", Tier.RAM),
        ("artist", "/mnt/slowdisk/artist", Tier.SSD),
    ]
    assert lab.name == "lab"
    assert list(lab.nodes) == ["local"]
    assert {(role.base, role.node) for role in lab.roles.values()} == {(None, "local")}
    assert lab.warnings == ()


def test_the_design_loads_as_it_is(design):
    """Every field of the long example has its value, sizes in bytes and times in seconds."""
    desk, base = design.nodes["desk"], design.bases["small"]
    assert (desk.vram, desk.ram) == (20 * 2**30, 48 * 2**30)
    assert desk.ssd is not None
    assert (desk.ssd.path, desk.ssd.budget) == ("/nvme/tierce", 400 * 2**30)
    assert (base.kv_cache, base.slots, base.max_rank, base.device) == (2 * 2**30, 8, 64, "auto")
    role = design.roles["philosopher"]
    assert [(use.shard, use.top_k, use.required) for use in role.rag] == [
        ("plato", 4, True),
        ("code", 2, False),
    ]
    assert (role.unload.idle_s, role.unload.to, role.warm.at) == (600.0, Tier.RAM, "0 9 * * 1-5")
    assert (role.warm.after, role.activated_by) == (("coder",), ("user", "coder"))
    assert (design.policy.vram_high, design.policy.want_deadline_s, design.policy.lease_s) == (
        0.92,
        30.0,
        60.0,
    )
    assert design.rag["outside"].map is not None
    assert design.rag["outside"].map.query == "q"
    assert (design.serve.api_keys[0].scope, design.serve.api_keys[0].roles) == ("admin", ("coder",))
    assert [(warning.code, warning.path) for warning in design.warnings] == [
        ("L7", "roles.philosopher.warm.at")
    ]


def test_each_entry_knows_its_name(design):
    """The key of an entry is its name."""
    for section in ENTRIES:
        assert all(entry.name == name for name, entry in getattr(design, section).items())


def test_what_can_mean_one_thing_is_filled_in(design):
    """The only base, and the node of that base, are filled in; what rests on the network has no node."""
    assert (design.roles["coder"].base, design.roles["coder"].node) == ("small", None)
    lab = load(
        "nodes: {a: {vram: 1GiB}, b: {ram: 1GiB}}\nbases: {m: {model: ./m}}\n"
        "roles: {r: {lora_path: ./r, location: RAM}, s: {lora_path: ./s, location: RAM, node: b}}\n",
        {},
    )
    assert lab.bases["m"].node == "a"
    assert [(role.base, role.node) for role in lab.roles.values()] == [("m", "a"), ("m", "b")]
    only = load("nodes: {desk: {}}\nrag: {s: {location: RAM, source: ./d}}\n", {})
    assert only.rag["s"].node == "desk"


def test_what_is_not_said_has_its_default():
    """Defaults are those of the design."""
    lab = load("bases: {m: {model: ./m}}\nroles: {r: {lora_path: ./r, location: RAM, rag: [s]}}\n"
               "rag: {s: {location: RAM, source: ./d}}\n", {})  # fmt: skip
    role, base = lab.roles["r"], lab.bases["m"]
    assert (role.unload.idle_s, role.unload.to, role.pin) == (600.0, None, False)
    assert (role.activated_by, role.consults, role.persona) == (("user",), (), "")
    assert (role.generation.temperature, role.generation.max_tokens, role.generation.seed) == (0.7, 200, None)
    assert (role.rag[0].top_k, role.rag[0].required) == (4, True)
    assert (base.slots, base.max_rank, base.kv_cache, base.deterministic) == (8, 64, 256 * 2**20, True)
    assert (base.kernels, base.slot_dtype) == ("auto", "float32")
    assert (lab.policy.vram_high, lab.policy.vram_low) == (0.92, 0.85)
    assert (lab.policy.ram_high, lab.policy.ram_low) == (0.95, 0.90)
    assert (lab.policy.ssd_high, lab.policy.ssd_low) == (0.97, 0.95)
    assert (lab.serve.host, lab.serve.port) == ("127.0.0.1", 8000)


def test_how_a_base_computes_can_be_said():
    """Kernels and the slots' dtype are read for any device: on a GPU `auto` has torch's kernels to choose."""
    lab = load("bases: {m: {model: x, device: cuda:0, kernels: auto, slot_dtype: bfloat16}}\n", {})
    assert (lab.bases["m"].kernels, lab.bases["m"].slot_dtype) == ("auto", "bfloat16")
    assert list(unserved(lab)) == []
    assert load("bases: {m: {model: x, kernels: torch}}\n", {}).bases["m"].kernels == "torch"


def test_vram_can_be_given_by_device():
    """Several devices of a node have a budget each."""
    lab = load(
        "nodes: {desk: {vram: {cuda:0: 20GiB, cuda:1: 10GiB}}}\nbases: {m: {model: x, device: cuda:1}}\n", {}
    )
    assert lab.nodes["desk"].vram == {"cuda:0": 20 * 2**30, "cuda:1": 10 * 2**30}


def test_paths_stay_as_they_are_written():
    """The home directory and the file's folder are for whoever opens the path; `root` says which folder."""
    lab = load("roles: {r: {lora_path: ~/r, location: RAM}}\n", {}, root="/srv/lab")
    assert (lab.roles["r"].lora_path, lab.root) == ("~/r", "/srv/lab")


def test_null_is_as_if_not_written():
    """A field that is null has its default, as machines write JSON; an empty section is no section."""
    lab = load(
        "roles: {r: {lora_path: ./r, location: RAM, persona_file: null, rag: ~}}\nrag:\nserve: null\n", {}
    )
    assert (lab.roles["r"].persona_file, lab.roles["r"].rag, lab.rag) == (None, (), {})


def test_a_lab_cannot_be_changed(design):
    """A lab is a value: its entries are frozen."""
    with pytest.raises(ValueError, match="frozen"):
        design.roles["coder"].pin = True


def test_a_lab_survives_pickling(design):
    """Actors get the lab as it is, its secrets included."""
    copy = pickle.loads(pickle.dumps(design))  # noqa: S301
    assert copy == design
    assert copy.rag["papers"].api_key.get_secret_value() == "sesame"


def test_code_may_pass_bare_numbers():
    """Only in a file must a quantity have its unit: code says the unit in the name."""
    assert Unload(idle=5.0).idle_s == 5.0


def test_every_field_has_a_description():
    """What a file may write is described, for `explain`."""
    models = {Lab, *ENTRIES.values()}
    while inner := {child for model in models for child in fields_of(model).values() if child} - models:
        models |= inner
    assert len(models) == 16
    for model in models:
        for name, field in model.model_fields.items():
            assert field.description is not None, f"{model.__name__}.{name}"
            assert field.description.endswith("."), f"{model.__name__}.{name}"


def test_loading_twice_gives_the_same(design):
    """The same text and environment are the same lab."""
    assert load(DESIGN, {"QDRANT_KEY": "sesame"}) == design


def test_the_demo_lab_loads_without_a_warning():
    """The file at the root is the lab of the examples, and there is nothing to say against it."""
    lab = load((ROOT / "cluster.yaml").read_text(encoding="utf-8"), {})
    assert lab.name == "athens"
    assert {role.name: role.location for role in lab.roles.values()} == {
        "philosopher": Tier.VRAM,
        "coder": Tier.RAM,
        "artist": Tier.SSD,
    }
    assert lab.roles["artist"].persona == "You are a playwright of Shakespeare's age. Answer in verse."
    assert lab.warnings == ()
