# ruff: noqa: E501  (messages stand here as they are printed)
"""Values that cannot all be meant: rows 24, 27, 32, 38, 39 and 41 of the table of bad inputs."""

import pytest

from placement.config import ConfigError, load

TWO = "nodes: {desk: {vram: {cuda:0: 8GiB}}, attic: {ram: 8GiB}}\n"
BASES = "bases: {m: {model: ./m}}\n"
BASE = "bases: {m: {model: ./m, node: desk}}\n"


def faults(text: str) -> list[str]:
    """The problems of a text that cannot be loaded."""
    with pytest.raises(ConfigError) as caught:
        load(text, {})
    return [str(problem).removeprefix("cluster.yaml:") for problem in caught.value.problems]


def role_faults(fields: str, above: str = "") -> list[str]:
    """The problems of a role with such fields, from its name on, without the place."""
    return [
        fault.partition(" ")[2] for fault in faults(f"{above}roles: {{r: {{lora_path: o/r, {fields}}}}}\n")
    ]


def shard_faults(fields: str, above: str = "") -> list[str]:
    """The problems of a shard with such fields, from its name on, without the place."""
    return [
        fault.partition(" ")[2] for fault in faults(f"{above}rag: {{s: {{{fields}}}}}\n") if "[L" not in fault
    ]


def test_what_rests_on_the_network_has_no_node():
    """A node beside location network is CFG031, for roles and shards (row 24)."""
    message = "what rests on the network has no node; take the line out, or choose VRAM, RAM or SSD [CFG031]"
    assert role_faults("location: network, node: local") == [f"roles.r.node: {message}"]
    assert shard_faults("location: network, node: local, url: x, collection: y") == [f"rag.s.node: {message}"]


def test_a_home_in_vram_needs_a_node_with_vram():
    """CFG031 names the node that has none (row 24)."""
    message = "the node 'attic' is a home in VRAM and has no vram; give it one (without a GPU it is the CPU's) [CFG031]"
    assert role_faults("location: VRAM, node: attic", TWO) == [f"roles.r.location: {message}"]
    assert shard_faults("location: VRAM, node: attic, source: d", TWO) == [f"rag.s.location: {message}"]
    assert faults(TWO + "bases: {m: {model: x, node: attic}}\n") == [
        "2:9 bases.m.device: the node 'attic' runs an engine and has no vram; give it one (without a GPU it is the CPU's) [CFG031]"
    ]


def test_a_node_that_lists_nothing_is_discovered_later():
    """Whether it has VRAM is not known from the file, so it is no error."""
    assert load("nodes: {a: {}}\nroles: {r: {lora_path: x, location: VRAM}}\n", {}).roles["r"].node == "a"


def test_a_home_in_vram_is_where_the_engine_is():
    """An adapter in VRAM sits in its base's engine, so on that node."""
    above = "nodes: {desk: {vram: 8GiB}, tower: {vram: 8GiB}}\n" + BASE
    assert role_faults("location: VRAM, node: tower", above) == [
        "roles.r.node: a home in VRAM is on the node of the engine: 'm' runs on 'desk' [CFG031]"
    ]


def test_a_device_has_to_be_on_its_node():
    """A device that the node does not list is CFG037."""
    message = "the node 'desk' has no vram of cuda:1; one of cuda:0 [CFG037]"
    assert faults(TWO + "bases: {m: {model: x, node: desk, device: cuda:1}}\n") == [
        f"2:43 bases.m.device: {message}"
    ]
    assert shard_faults("location: VRAM, node: desk, device: cuda:1, source: d", TWO) == [
        f"rag.s.device: {message}"
    ]


def test_a_kv_cache_has_to_fit():
    """A cache as large as all VRAM of the node is CFG032 with both numbers."""
    assert faults(TWO + "bases: {m: {model: x, node: desk, kv_cache: 8GiB}}\n") == [
        "2:45 bases.m.kv_cache: 8.0 GiB do not fit into the 8.0 GiB of 'desk' [CFG032]"
    ]


@pytest.mark.parametrize(
    ("text", "faults_of_it"),
    [
        (
            "nodes: {a: {vram: 1GiB}, b: {vram: 1GiB}}\nbases: {m: {model: x}}\n",
            ["2:9 bases.m: which node does its engine run on? node: one of a, b [CFG025]"],
        ),
        (
            "nodes: {a: {vram: 1GiB}, b: {vram: 1GiB}}\nroles: {r: {lora_path: x, location: RAM}}\n",
            ["2:9 roles.r: which node? node: one of a, b [CFG025]"],
        ),
        (
            "nodes: {a: {vram: 1GiB}, b: {vram: 1GiB}}\nrag: {s: {source: x, location: RAM}}\n",
            ["2:7 rag.s: which node? node: one of a, b [CFG025]"],
        ),
        (
            "bases: {m: {model: x}, n: {model: y}}\nroles: {r: {lora_path: x, location: RAM}}\n",
            ["2:9 roles.r: which base? base: one of m, n [CFG025]"],
        ),
    ],
)
def test_what_can_mean_two_things_has_to_be_said(text, faults_of_it):
    """Where there are several nodes or bases, an entry says which: CFG025 (row 18)."""
    assert faults(text) == faults_of_it


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        (
            "location: RAM, unload: {to: VRAM}",
            "VRAM is above its home RAM; unloading goes to its home or below",
        ),
        (
            "location: SSD, unload: {to: RAM}",
            "RAM is above its home SSD; unloading goes to its home or below",
        ),
        (
            "location: network, unload: {to: SSD}",
            "SSD is above its home network; unloading goes to its home or below",
        ),
        ("location: VRAM, pin: true, unload: {to: RAM}", "pin: true keeps it at its home VRAM"),
    ],
)
def test_unloading_goes_down(fields, fault):
    """`unload.to` above the home, or away from it for what is pinned, is CFG034."""
    assert role_faults(fields) == [f"roles.r.unload.to: {fault} [CFG034]"]
    extra = ", url: x, collection: y" if "network" in fields else ", source: d"
    assert shard_faults(fields + extra, BASES) == [f"rag.s.unload.to: {fault} [CFG034]"]


@pytest.mark.parametrize(
    ("home", "to"), [("VRAM", "VRAM"), ("VRAM", "SSD"), ("RAM", "disk"), ("SSD", "network")]
)
def test_unloading_to_the_home_or_below_is_right(home, to):
    """Any tier from the home down can be said."""
    load(f"roles: {{r: {{lora_path: x, location: {home}, unload: {{to: {to}}}}}}}\n", {})


def test_a_persona_is_written_once():
    """Inline and as a file at the same time is CFG070 (row 39)."""
    assert role_faults("location: RAM, persona: x, persona_file: y") == [
        "roles.r.persona_file: persona is given too; take one of them out [CFG070]"
    ]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ("location: RAM", ["rag.s: source (documents to build it from) or path (an index that exists) is missing [CFG025]"]),
        (
            "location: network",
            [
                "rag.s: the field collection is missing: which one of the Qdrant server? [CFG025]",
                "rag.s: the field url is missing: a shard on the network needs its address [CFG025]",
            ],
        ),
        ("location: network, api: http", ["rag.s: the field url is missing: a shard on the network needs its address [CFG025]"]),
        ("location: SSD, url: x", ["rag.s.url: url is for location: network; the location is SSD [CFG031]"]),
        ("location: SSD, source: d, api: http", ["rag.s.api: api is for location: network; the location is SSD [CFG031]"]),
        ("location: RAM, source: d, device: cuda:0", ["rag.s.device: a device is for VRAM; the location is RAM [CFG031]"]),
        ("location: network, url: x, collection: y, path: z", ["rag.s.path: a shard on the network has no directory here [CFG031]"]),
        ("location: SSD, source: d, map: {}", ["rag.s.map: map is for location: network; the location is SSD [CFG031]"]),
        ("location: network, url: x, collection: y, map: {query: q, text: t}", ["rag.s.map.query: query is for api: http [CFG031]"]),
        ("location: network, api: http, url: x, map: {vector: v, top_k: n}", ["rag.s.map.vector: vector is for api: qdrant [CFG031]"]),
        ("location: network, api: http, url: x, map: {results: a..b}", ["rag.s.map.results: 'a..b' is not a path such as data.hits, or . for the whole answer [CFG022]"]),
        ("location: network, api: http, url: x, collection: y", ["rag.s.collection: a collection is for api: qdrant [CFG031]"]),
    ],
)  # fmt: skip
def test_a_shard_has_what_its_location_needs(fields, found):
    """A local shard needs documents or an index, one on the network its address; nothing of the other kind."""
    assert shard_faults(fields) == found


@pytest.mark.parametrize("fields", ["location: RAM, source: d", "location: SSD, path: /i", "location: VRAM, source: d, path: i"])  # fmt: skip
def test_a_shard_is_built_or_opened(fields):
    """Documents, an index, or both."""
    load(f"{BASES}rag: {{s: {{{fields}}}}}\n", {})


@pytest.mark.parametrize(
    "fields",
    [
        "url: x, collection: y, map: {text: body, document: file, vector: dense}",
        "url: x, api: http, map: {query: q, top_k: n, results: data.hits, text: b, score: s, document: d}",
        "url: x, api: http, map: {results: .}",
    ],
)
def test_a_server_has_its_own_names(fields):
    """Each kind of server has the map that it needs."""
    load(f"rag: {{s: {{location: network, {fields}}}}}\n", {})


def test_a_folder_is_not_on_the_network():
    """An adapter rests there at a hub id or an address only, an index only where it was always: CFG031."""
    message = "what rests on the network is at a hub id or an address, and lora_path is a folder; choose SSD"
    for path in ("./x", "/x", "~/x"):
        text = f"roles: {{r: {{lora_path: {path}, location: network}}}}\n"
        assert [fault.partition(" ")[2] for fault in faults(text)] == [
            f"roles.r.location: {message} [CFG031]"
        ]
    load("roles: {r: {lora_path: org/x, location: network}}\n", {})
    load('roles: {r: {lora_path: "https://host/x/", location: SSD, unload: {to: network}}}\n', {})
    (fault,) = faults("roles: {r: {lora_path: ./x, location: SSD, unload: {to: network}}}\n")
    assert fault == f"1:57 roles.r.unload.to: {message} [CFG031]"
    assert shard_faults("location: SSD, source: d, unload: {to: network}") == [
        "rag.s.unload.to: an index is not sent to a server; choose SSD [CFG031]"
    ]


def test_two_shards_cannot_share_an_index():
    """The same directory of a node, or the same collection of a server, is CFG064 at the second (row 38)."""
    text = (
        "nodes: {a: {ram: 1GiB}, b: {ram: 1GiB}}\n"
        "rag:\n"
        "  s: {location: SSD, node: a, path: /i/x}\n"
        "  t: {location: RAM, node: a, path: /i/./x/, source: d}\n"
        "  u: {location: SSD, node: b, path: /i/x}\n"
        '  v: {location: network, url: "http://q:6333", collection: c}\n'
        '  w: {location: network, url: "http://q:6333/", collection: c}\n'
    )
    assert faults(text) == [
        "4:37 rag.t.path: the shard 's' has the same path; each shard needs its own [CFG064]",
        "7:61 rag.w.collection: the shard 'v' has the same collection; each shard needs its own [CFG064]",
    ]


@pytest.mark.parametrize(
    ("replicas", "found"),
    [
        ("{min: 2, max: 1}", ["bases.m.replicas: min 2 is more than max 1 [CFG034]"]),
        ("{min: 0}", ["bases.m.replicas.min: a base has at least 1 engine [CFG035]"]),
        (
            "{max: 3}",
            ["bases.m.replicas.max: 3 engines on 2 devices of a; each needs one of its own [CFG035]"],
        ),
        ("0", ["bases.m.replicas: expected a mapping of fields, found 0 [CFG022]"]),
    ],
)
def test_engines_can_be_counted(replicas, found):
    """At least one engine, at most one for each device, and min below max (rows 27 and 41)."""
    text = f"nodes: {{a: {{vram: {{cuda:0: 8GiB, cuda:1: 8GiB}}}}}}\nbases: {{m: {{model: x, replicas: {replicas}}}}}\n"
    assert [fault.partition(" ")[2] for fault in faults(text)] == found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("policy: {vram_high: 80%}\n", "1:1 policy.vram_low: vram_low 85% is not below vram_high 80% [CFG034]"),
        ("policy: {ram_low: 95%}\n", "1:19 policy.ram_low: ram_low 95% is not below ram_high 95% [CFG034]"),
        ("policy: {ssd_high: 90%}\n", "1:1 policy.ssd_low: ssd_low 95% is not below ssd_high 90% [CFG034]"),
        ("policy: {score: {frequency: 0, recency: 0, cost: 0}}\n", "1:10 policy.score: all weights are 0; one must be more [CFG034]"),
        ("policy: {score: {cost: -1}}\n", "1:24 policy.score.cost: must be at least 0 [CFG034]"),
        ("serve: {port: 65536}\n", "1:15 serve.port: must be at most 65535 [CFG034]"),
        ("serve: {api_keys: [{name: a, hash: x}, {name: a, hash: y}]}\n", "1:47 serve.api_keys[1].name: another key has this name [CFG027]"),
    ],
)  # fmt: skip
def test_policy_and_serve_make_sense(text, fault):
    """Shares are in order, weights weigh, ports exist, keys are told apart (row 27)."""
    assert faults(text) == [fault]


@pytest.mark.parametrize("host", ["0.0.0.0", "'::'", "192.168.1.4", "lab.example.org"])  # noqa: S104
def test_an_open_door_needs_keys(host):
    """Listening where others can reach it without api_keys is CFG050 (row 32)."""
    (fault,) = faults(f"serve: {{host: {host}}}\n")
    shown = host.strip("'")
    assert fault == (
        f"1:15 serve.host: the host '{shown}' can be reached by others; add api_keys, or listen on 127.0.0.1 [CFG050]"
    )
    load(f"serve: {{host: {host}, api_keys: [{{name: a, hash: x}}]}}\n", {})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "'::1'", "127.1.2.3"])
def test_this_machine_needs_no_keys(host):
    """Loopback is open to this machine only."""
    load(f"serve: {{host: {host}}}\n", {})
