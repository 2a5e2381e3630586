"""Whatever the text, `load` answers with a lab or with problems that have a place."""

from hypothesis import given
from hypothesis import strategies as st

from placement.config import ConfigError, load
from placement.config.schema import ENTRIES, Lab, fields_of

TEXT = """\
lab: athens
nodes: {desk: {vram: {cuda:0: 8GiB}, ssd: {path: /x, budget: 1GiB}}, attic: {ram: 8GiB}}
bases: {m: {model: ./m, node: desk, slots: 8, kv_cache: 1GiB, replicas: {min: 1, max: 1}}}
roles:
  a: {lora_path: ./a, location: VRAM, rag: [s, {shard: t, top_k: 3}], unload: {idle: 5min, to: RAM}}
  b: {lora_path: "${HOME}/b", location: RAM, warm: {after: [a], at: "0 9 * * 1-5"}, consults: [a]}
rag:
  s: {location: SSD, node: attic, source: ./d, path: /i}
  t: {location: network, url: "http://q", collection: c, api_key: "${KEY:-x}"}
policy: {vram_high: 92%, lease: 60s, score: {cost: 0.5}}
serve: {host: 127.0.0.1, port: 8000, api_keys: [{name: n, hash: h, roles: [a]}]}
"""
PIECES = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\n",
    "  ",
    "\t",
    "&a ",
    "*a ",
    "!!x ",
    "${",
    "}",
    "- ",
    "'",
    '"',
    "#",
    "~",
    "\x07",
    "é",
    "9",
    "---\n",
]

FIELDS = sorted({field for model in (Lab, *ENTRIES.values()) for field in fields_of(model)})
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(["", "RAM", "1GiB", "5min", "90%", "s", "${X}", "network"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*FIELDS, "a", "s", "min"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def answer(text: str) -> None:
    """Load a text, and check whatever comes."""
    try:
        problems = load(text, {"HOME": "/srv"}).warnings
    except ConfigError as error:
        problems = error.problems
        wrong = sum(problem.severity == "error" for problem in problems)
    else:
        wrong = 0
    assert wrong or all(problem.severity == "warning" for problem in problems)
    for problem in problems:
        assert 0 <= problem.line <= text.count("\n") + 2
        assert str(problem).endswith(f"[{problem.code}]")
        assert str(problem).isprintable()


@given(
    st.lists(
        st.tuples(st.integers(0, len(TEXT)), st.sampled_from(PIECES), st.integers(0, 12)),
        min_size=1,
        max_size=4,
    )
)
def test_a_damaged_file_is_answered(damages):
    """Characters put in and taken out anywhere end in problems, never in another error."""
    text = TEXT
    for at, piece, cut in damages:
        text = text[:at] + piece + text[at + cut :]
    answer(text)


@given(
    st.dictionaries(st.sampled_from([*FIELDS, "x"]), VALUES, max_size=5),
    st.sampled_from(["nodes", "bases", "roles", "rag"]),
)
def test_an_entry_of_any_shape_is_answered(fields, section):
    """Values of any kind in any field of any section end in problems or in a lab."""
    entry = {"lora_path": "x", "location": "RAM", "model": "x", "source": "x"}
    known = fields_of(ENTRIES[section])
    entry = {key: value for key, value in entry.items() if key in known} | fields
    answer(_flow({section: {"e": entry, "f": fields}, "policy": fields, "serve": {"api_keys": [fields]}}))


def _flow(value: object) -> str:
    """Write values as YAML in flow style."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return "~" if value is None else f"'{value}'" if isinstance(value, str) else str(value)
