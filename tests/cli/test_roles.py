"""Roles said on the command line: what reaches the lab, and what comes back as a file."""

import json

import pytest

from actors.cli.entry import alone
from actors.cli.labs import LINE, Labs
from placement.config import load
from placement.errors import UserError, WorldError

SAID = [
    "--lora-path", "./critic",
    "--location", "RAM",
    "--node", "desk",
    "--device", "cuda:1",
    "--base", "small",
    "--persona", "010",
    "--description", "Finds faults.",
    "--rag", "plato", "--rag", "plays",
    "--consults", "coder",
    "--activated-by", "user", "--activated-by", "philosopher",
    "--pin",
    "--idle", "10min",
    "--set", "generation.temperature=0",
    "--set", "unload.to=SSD",
]  # fmt: skip
ENTRY = {
    "lora_path": "./critic",
    "location": "RAM",
    "node": "desk",
    "device": "cuda:1",
    "base": "small",
    "persona": "010",
    "description": "Finds faults.",
    "rag": ["plato", "plays"],
    "consults": ["coder"],
    "activated_by": ["user", "philosopher"],
    "pin": True,
    "unload": {"idle": "10min", "to": "SSD"},
    "generation": {"temperature": 0},
}


def test_add_role_says_the_entry_of_a_file(tierce, lab):
    """Each option is the field of the same name; what was not said is not in the entry."""
    done = tierce("add-role", "critic", *SAID)
    assert done.code == 0, done.err
    assert lab.orders == [("add_role", "critic", ENTRY)]
    assert done.out.splitlines()[1].startswith("critic")


def test_a_role_that_cannot_serve_is_six(tierce, lab):
    """A role that was added and cannot serve is told, and the command exits 6: the lab runs on."""
    lab.problem = "no weights in the directory [ADP002]"
    done = tierce("add-role", "critic", "--lora-path", "x", "--location", "RAM")
    assert done.code == 6
    assert done.err == "error: role critic: no weights in the directory [ADP002]\n"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("persona=no", "no"),
        ("persona=", ""),
        ("persona=a=b", "a=b"),
        ('persona="010"', "010"),
        ("persona=costs ${PRICE}", "costs ${PRICE}"),
        ("pin=true", True),
        ("generation={temperature: 0.5, stop: [a, 'b']}", {"temperature": 0.5, "stop": ["a", "b"]}),
        ("rag=[{shard: plato, top_k: 2, required: no}]", [{"shard": "plato", "top_k": 2, "required": "no"}]),
    ],
)
def test_set_reads_a_value_as_the_file_would(tierce, lab, option, value):
    """--set takes numbers, texts, lists and mappings in the file's own writing."""
    assert tierce("update-role", "coder", "--set", option).code == 0
    ((_, _, changes),) = lab.orders
    assert list(changes.values()) == [value]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "lokation=RAM"], "a role has no field 'lokation'; did you mean 'location'?"),
        (["--set", "name=x"], "a role has no field 'name'"),
        (["--set", "unload.idel=1s"], "unload has no field 'idel'; did you mean 'idle'?"),
        (["--set", "pin.x=1"], "pin has no field 'x'"),
        (["--set", "pin"], "'pin' is not KEY=VALUE"),
        (["--set", "rag=[a"], "rag: "),
        (["--set", "rag=[a]\npin: true"], "rag: more than one value"),
        (["--set", "rag=[!!x a]"], "rag: the tag"),
        (["--pin", "--set", "pin=false"], "pin is said twice"),
        (["--idle", "1s", "--set", "unload={idle: 2s}"], "unload is said twice"),
        (["--idle", "1s", "--unset", "unload"], "unload is said twice"),
        (["--unset", "perzona"], "a role has no field 'perzona'; did you mean 'persona'?"),
    ],
)
def test_what_cannot_be_said_is_refused_before_the_lab_is_asked(tierce, labs, arguments, said):
    """Unknown fields, fields said twice and broken values end with 2 and the field's name, at once."""
    done = tierce("update-role", "coder", *arguments)
    assert done.code == 2
    assert said in " ".join(done.err.replace("│", " ").split())
    assert labs.asked == []


def test_update_role_says_only_what_changes(tierce, lab):
    """Fields that are not named are not sent; --unset sends nothing in a field's place."""
    tierce("update-role", "coder", "--location", "SSD", "--no-pin", "--unset", "persona")
    assert lab.orders == [("update_role", "coder", {"location": "SSD", "pin": False, "persona": None})]


@pytest.mark.parametrize(
    ("arguments", "unload"),
    [
        (["--idle", "5min"], {"idle": "5min", "to": "SSD"}),
        (["--unset", "unload.to"], {"idle": "10min"}),
        (["--unset", "unload.to", "--unset", "unload.idle"], None),
        (["--set", "unload={idle: 5min}"], {"idle": "5min"}),
    ],
)
def test_a_part_of_a_field_leaves_its_other_parts(tierce, lab, arguments, unload):
    """A part that changes goes with the other parts as the lab has them; a whole field replaces the whole."""
    tierce("update-role", "coder", *arguments)
    assert lab.orders == [("update_role", "coder", {"unload": unload})]


def test_update_says_which_version_serves_in_whose_place(tierce, lab):
    """Stderr says what happened, stdout is the row of the role."""
    done = tierce("update", "coder")
    assert (done.code, lab.orders) == (0, [("update", "coder")])
    assert "coder: version 0b1c2d3e4f50 serves in place of 0a0b0c0d0e0f" in done.err
    assert done.out.splitlines()[1].startswith("coder")


def test_update_says_that_nothing_is_new(tierce, lab):
    """A source that holds what serves already is a success, and told as such."""
    lab.before = "0b1c2d3e4f50"
    done = tierce("update", "coder")
    assert done.code == 0
    assert "coder: nothing new, /adapters/coder still holds version 0b1c2d3e4f50" in done.err


def test_an_update_to_a_broken_adapter_is_three(tierce, lab):
    """What is wrong with the adapter is the error, with its code and what to do."""
    lab.error = UserError("ADP002", "/adapters/coder has no weights", "put them there")
    done = tierce("update", "coder")
    assert done.code == 3
    assert done.err.splitlines()[-2:] == [
        "error: /adapters/coder has no weights [ADP002]",
        "  put them there",
    ]


def test_an_update_that_finds_no_seat_is_five(tierce, lab):
    """Who has the seats is told, as for an ask that came too late."""
    lab.error = WorldError("TRC012", "coder@1 was not ready: 2 seats, and 2 are taken: critic (pinned)")
    assert tierce("update", "coder").code == 5


def test_remove_role_says_what_it_was(tierce, lab):
    """`remove-role` names the version that left and the places that it left."""
    done = tierce("remove-role", "coder")
    assert lab.orders == [("remove_role", "coder")]
    assert done.out == (
        "role coder 0b1c2d3e4f50 is removed; it was at local:VRAM(cpu), local:SSD. Its source stays\n"
    )


def test_export_is_the_file_and_nothing_else(tierce, lab):
    """Stdout is the lab's file, byte for byte, so that it can go into one."""
    done = tierce("export")
    assert (done.out, done.err) == (lab.text, "")


def test_export_writes_a_file_whole(tierce, lab, tmp_path):
    """--output puts the file in place of an older one, and stdout stays empty."""
    file = tmp_path / "lab.yaml"
    file.write_text("old", encoding="utf-8")
    done = tierce("export", "--output", str(file))
    assert file.read_text(encoding="utf-8") == lab.text
    assert done.out == ""
    assert f"`tierce up {file}`" in done.err
    assert list(tmp_path.iterdir()) == [file]


def test_export_into_nowhere_is_two(tierce, tmp_path):
    """A file that cannot be written is a wrong command line."""
    done = tierce("export", "--output", str(tmp_path / "none" / "lab.yaml"))
    assert done.code == 2
    assert "No such file" in done.err


def test_up_brings_a_role_more(tierce, labs):
    """`up FILE --role` passes the role and its entry beside the file."""
    tierce("up", "lab.yaml", "--role", "critic", *SAID)
    assert labs.asked == [("up", "lab.yaml", None, False, ("critic", ENTRY))]


@pytest.mark.parametrize("there", [True, False])
def test_up_with_a_role_takes_the_file_that_is_here(tierce, labs, tmp_path, monkeypatch, there):
    """Without FILE, a role joins the lab of cluster.yaml; where there is none, it is the lab."""
    monkeypatch.chdir(tmp_path)
    if there:
        (tmp_path / "cluster.yaml").touch()
    tierce("up", "--role", "critic", "--lora-path", "org/critic", "--location", "network")
    ((_, file, _, _, role),) = labs.asked
    assert file == ("cluster.yaml" if there else None)
    assert role == ("critic", {"lora_path": "org/critic", "location": "network"})


def test_a_role_alone_is_a_lab():
    """The file of a role alone loads, its node is its machine, and its texts come back as they were."""
    entry = {"lora_path": "/adapters/critic", "location": "RAM", "node": "desk", "persona": "no: 010\n\ttab"}
    lab = load(alone("critic", entry), {})
    assert list(lab.nodes) == ["desk"]
    assert lab.roles["critic"].persona == entry["persona"]
    assert (lab.roles["critic"].node, lab.roles["critic"].location) == ("desk", "RAM")


def test_a_lab_of_the_line_is_passed_on_as_a_text(monkeypatch):
    """Without a file, `up` gets the text of one; with a file, the role beside it; without a role, neither."""
    told = []
    monkeypatch.setattr("actors.launch.raise_lab", lambda file, **more: told.append((file, more)))
    role = ("critic", {"lora_path": "/critic", "location": "RAM"})
    common = {"address": None, "dashboard": False, "say": print}
    Labs().up(None, **common, role=role)
    Labs().up("lab.yaml", **common, role=role)
    Labs().up("lab.yaml", **common)
    (line, alone_), (_, beside), (_, plain) = told
    assert line == LINE
    assert json.loads(alone_["text"]) == {"roles": dict([role])}
    assert beside == {**common, "role": role}
    assert plain == common


def test_the_options_of_a_role_are_the_same_everywhere(tierce):
    """`up`, `add-role` and `update-role` take the very same options of a role."""
    helps = [
        tierce(command, "--help").out.partition("─ The role ─")[2]
        for command in ("up", "add-role", "update-role")
    ]
    assert helps[0].count("--") > 12
    assert helps[0] == helps[1] == helps[2]
