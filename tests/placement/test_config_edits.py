"""A file and what was said since: one text again, which says the same through the strict loader."""

import json
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.config import ConfigError, load
from placement.config.edits import Edit, change, edited, entry, export, faults_of, raw, standing
from placement.errors import UserError
from placement.tiers import Tier

ROOT = Path(__file__).resolve().parents[2]
ENV = {"QDRANT_KEY": "sesame", "HOME": "/srv"}
FILE = """\
# comments go, values stay
lab: athens
nodes: {desk: {vram: 1GiB, ram: 2GiB, ssd: {path: ssd, budget: 4GiB}}, attic: {ram: 010GiB}}
bases: {small: {model: ./base, node: desk, kv_cache: 64MiB}}
roles:
  coder: {lora_path: lora/coder, location: RAM, persona: "Be terse.\\nShow code.", pin: true}
  critic: &critic {lora_path: org/critic, location: network, warm: {at: "0 9 * * 1-5"}}
  poet: {lora_path: "${HOME}/poet", location: SSD, node: attic, persona_file: poet.txt, rag: [plato]}
rag:
  plato: {location: RAM, node: desk, source: docs, path: ~/plato}
  papers: {location: network, url: "http://q:6333", collection: "010", api_key: "${QDRANT_KEY}"}
"""
TRICKY = [
    "010", "0o17", "0x1F", "1_000", "no", "on", "Yes", "true", "null", "~", "", "12:30", "1e3", "1.20",
    ".inf", "${X}", "$${X}", "=", "<<", "- a", "a: b", "a #b", "# a", "'", '"', "\\", "{a", "[a", "|", ">",
    "&a", "*a", "!a", "%a", "@a", "`a", " a ", "a\n", "\na", "a\n\n b\n", "  a\n b", "a\tb", "\t", "a\r\nb",
    "é ∀ 😀", "\x85", "\u2028", "\ufeff", "a" * 300, "word " * 60, "---", "...", "?", "? a", "-", ":", "a:",
    "\x07",
]  # fmt: skip
TEXTS = st.sampled_from(TRICKY) | st.text(max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def lab(text: str):
    """The lab of a text, without its warnings, which have lines."""
    return load(text, ENV).model_copy(update={"warnings": ()})


@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_whatever_a_file_can_hold_is_read_back_as_it_was_said(fields):
    """Text that looks like a number, a flag or a time stays text, personas keep their lines."""
    assert raw(edited(FILE, [Edit("new", fields, None)]))["roles"]["new"] == fields


@given(VALUES)
def test_numbers_and_flags_keep_their_kind(value):
    """True does not become 1, nor 1 become 1.0."""
    back = raw(edited(FILE, [Edit("new", {"x": value}, None)]))["roles"]["new"]["x"]
    assert json.dumps(back) == json.dumps(value)


def test_a_persona_of_several_lines_is_written_as_lines():
    """People read the export: a long persona is a block, and short leaves stand on one line."""
    text = edited("lab: a", [Edit("r", {"lora_path": "/r", "persona": "One.\nTwo.", "rag": ["s"]}, None)])
    assert (
        text
        == "lab: a\nroles:\n  r:\n    lora_path: /r\n    persona: |-\n      One.\n      Two.\n    rag: [s]\n"
    )


def test_without_edits_the_text_is_the_file():
    """Not a character changes, so that problems keep their lines."""
    assert edited(FILE, []) == FILE


@given(st.sampled_from(["coder", "critic", "poet"]))
def test_an_entry_said_again_as_it_is_changes_nothing(role):
    """A file rewritten by an edit loads as the same lab, order of the roles included."""
    own = raw(FILE)["roles"][role]
    again = lab(edited(FILE, [Edit(role, own, own)]))
    assert again == lab(FILE)
    assert list(again.roles) == list(lab(FILE).roles)


@given(st.text("abc", min_size=1, max_size=3), st.sampled_from(["RAM", "SSD", "VRAM"]))
def test_adding_and_removing_is_nothing(name, location):
    """What was added and taken away leaves the lab of the file."""
    edits = [Edit(name, {"lora_path": "/x", "location": location}, None), Edit(name, None, None)]
    assert lab(edited(FILE, edits)) == lab(FILE)
    assert lab(edited("lab: a", edits)) == lab("lab: a")


def test_a_role_can_be_added_changed_and_removed():
    """Edits apply in their order; quantities and references are those of a file."""
    fields = {"lora_path": "${HOME}/new", "location": "ram", "unload": {"idle": "5min"}}
    edits = [Edit("new", fields, None), Edit("poet", None, raw(FILE)["roles"]["poet"])]
    edits.append(Edit("new", change(fields, {"location": Tier.SSD, "unload": None}), None))
    made = load(edited(FILE, edits), ENV)
    assert list(made.roles) == ["coder", "critic", "new"]
    assert (made.roles["new"].lora_path, made.roles["new"].location) == ("/srv/new", Tier.SSD)
    assert made.roles["new"].unload.idle_s == 600


def test_the_entry_of_a_role_is_that_of_its_last_edit():
    """Whoever changes a role starts from what was said last; one that was removed has none."""
    edits = [Edit("coder", {"lora_path": "/a"}, None), Edit("coder", {"lora_path": "/b"}, None)]
    assert entry(FILE, edits, "coder") == {"lora_path": "/b"}
    assert entry(FILE, [Edit("coder", None, None)], "coder") is None
    assert entry(FILE, [], "critic") == raw(FILE)["roles"]["critic"]


def test_changes_take_fields_out_and_replace_mappings_whole():
    """None removes; a mapping is not merged with the one that was there."""
    before = {"location": "RAM", "node": "desk", "unload": {"idle": "5min", "to": "SSD"}}
    after = change(before, {"node": None, "unload": {"idle": "1min"}, "pin": True, "base": None})
    assert after == {"location": "RAM", "unload": {"idle": "1min"}, "pin": True}
    assert before["node"] == "desk"


def test_an_edit_stands_until_the_file_says_something_else_of_its_role():
    """Other lines of the file may change; a changed, added or removed entry of its own overtakes the edit."""
    own = raw(FILE)["roles"]["coder"]
    edits = [Edit("coder", {**own, "location": "SSD"}, own), Edit("new", {"lora_path": "/n"}, None)]
    edits.append(Edit("critic", None, raw(FILE)["roles"]["critic"]))
    assert standing(FILE, edits) == (edits, [])
    assert standing(FILE.replace("lab: athens", "lab: sparta"), edits) == (edits, [])
    assert standing(FILE.replace("lora/coder", "lora/coder2"), edits) == (edits[1:], edits[:1])
    added = FILE.replace("  poet:", "  new: {lora_path: /n, location: RAM}\n  poet:")
    assert standing(added, edits) == ([edits[0], edits[2]], [edits[1]])
    assert standing("lab: athens", edits) == ([edits[1]], [edits[0], edits[2]])


def test_what_an_edit_was_said_of_survives_a_journal():
    """`was` and `fields` are plain data: through JSON they are still the file's own entry."""
    own = raw(FILE)["roles"]["coder"]
    assert standing(FILE, [Edit("coder", None, json.loads(json.dumps(own)))])[1] == []
    flagged = FILE.replace("pin: true", "pin: 1")
    assert standing(flagged, [Edit("coder", None, own)])[0] == []


def test_what_no_file_can_hold_is_refused_at_its_place():
    """An object of code is CFG022 with the field and its type; a path is text."""
    with pytest.raises(UserError) as caught:
        edited(FILE, [Edit("r", {"warm": {"after": [object()]}}, None)])
    assert str(caught.value) == "roles.r.warm.after[0]: a object cannot be written in a lab file [CFG022]"
    text = edited(FILE, [Edit("r", {"lora_path": PurePosixPath("/a"), "rag": ("plato",)}, None)])
    assert raw(text)["roles"]["r"] == {"lora_path": "/a", "rag": ["plato"]}


def is_id(text: str) -> bool:
    """What these tests take for the id of a hub."""
    return text.startswith("org/")


def test_what_code_shares_is_written_twice():
    """One list in two places is no alias, which people would have to follow."""
    shared = ["plato"]
    text = edited(FILE, [Edit("r", {"rag": shared, "consults": shared}, None)])
    assert "&" not in text
    assert raw(text)["roles"]["r"] == {"rag": ["plato"], "consults": ["plato"]}


def test_an_export_loads_to_the_same_lab_from_any_folder():
    """Paths are absolute, ids, addresses, ~ and ${NAME} as they were, and everything else is the same."""
    made = lab(export(FILE, [], "/srv/lab", {}, is_id))
    assert made.bases["small"].model == "/srv/lab/base"
    assert [role.lora_path for role in made.roles.values()] == [
        "/srv/lab/lora/coder",
        "org/critic",
        "/srv/poet",
    ]
    assert made.roles["poet"].persona_file == "/srv/lab/poet.txt"
    assert (made.rag["plato"].source, made.rag["plato"].path) == ("/srv/lab/docs", "~/plato")
    assert made.nodes["desk"].ssd.path == "/srv/lab/ssd"
    text = FILE.replace("poet.txt", "/srv/lab/poet.txt").replace("path: ssd", "path: /srv/lab/ssd")
    for path in ("base, node", "lora/coder", "docs"):
        text = text.replace(f"./{path}", path).replace(path, f"/srv/lab/{path}")
    assert made == lab(text)
    assert export(export(FILE, [], "/srv/lab", {}, is_id), [], "/elsewhere", {}, is_id) == export(
        FILE, [], "/srv/lab", {}, is_id
    )


@given(
    st.fixed_dictionaries(
        {"lora_path": st.just("/x"), "location": st.sampled_from(["RAM", "vram", "disk"])},
        optional={
            "description": TEXTS.map(lambda text: text.replace("$", "")),
            "persona": TEXTS.map(lambda text: text.replace("$", "$$")),
            "rag": st.just(["plato", {"shard": "papers", "required": False}]),
            "unload": st.fixed_dictionaries({"idle": st.sampled_from(["90s", "1.5h"])}),
            "generation": st.fixed_dictionaries(
                {"temperature": st.floats(0, 2), "seed": st.integers(0, 2**60)}
            ),
            "pin": st.booleans(),
        },
    )
)
def test_whatever_was_said_in_code_comes_back_from_the_export(fields):
    """The lab that an export brings up is the lab that was exported."""
    edits = [Edit("new", fields, None)]
    running = load(edited(FILE, edits), ENV).roles["new"]
    assert load(export(FILE, edits, "/srv", {}, is_id), ENV).roles["new"] == running
    for field in ("description", "persona"):
        assert getattr(running, field) == fields.get(field, "").replace("$$", "$")


def test_an_export_keeps_references_to_the_environment():
    """No value of the environment, and so no secret of it, gets into the text."""
    text = export(FILE, [], "/", {}, is_id)
    assert "${QDRANT_KEY}" in text
    assert "sesame" not in text


def test_an_export_has_what_was_ordered_since():
    """Homes and pins given by order stand over the file and the edits, for roles and shards."""
    overlay = {
        "coder": {"location": "VRAM", "pin": None},
        "plato": {"location": Tier.SSD, "node": "attic", "pin": True},
        "gone": {"pin": True},
    }
    edits = [Edit("coder", {"lora_path": "/c", "location": "RAM", "pin": True}, None)]
    made = load(export(FILE, edits, "/", overlay, is_id), ENV)
    assert (made.roles["coder"].location, made.roles["coder"].pin) == (Tier.VRAM, False)
    assert (made.rag["plato"].location, made.rag["plato"].node, made.rag["plato"].pin) == (
        Tier.SSD,
        "attic",
        True,
    )
    assert "gone" not in made.roles


def test_the_demo_lab_exports_to_itself():
    """The file at the root, exported and loaded, is the same lab with absolute paths."""
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    made = load(export(text, [], "/srv", {}, is_id), {})
    assert made.warnings == ()
    assert made == load(text.replace(" ./examples", " /srv/examples"), {})


def test_a_wrong_edit_is_said_without_lines_of_a_text_that_nobody_wrote():
    """The error of a call names the fields of the role, all at once, with the code of the first."""
    with pytest.raises(ConfigError) as caught:
        load(
            edited(FILE, [Edit("r", {"lora_path": "/r", "location": "vrm", "unload": {"idle": 5}}, None)]),
            ENV,
        )
    error = faults_of(caught.value)
    assert type(error) is UserError
    assert error.code == "CFG021"
    assert error.message.splitlines() == [
        "roles.r.location: unknown tier 'vrm'; did you mean 'vram'?",
        "roles.r.unload.idle: 5 of what? write 5s",
    ]
