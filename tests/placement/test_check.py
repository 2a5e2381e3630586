# ruff: noqa: E501  (messages stand here as they are printed)
"""`tierce check`: what it says of a file, and with `files` of what the file names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from actors.cli.check import check_file, render

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lab(tmp_path) -> Path:
    """A lab of the minimal form whose three adapters, documents and base exist."""
    for role in ("philosopher", "coder"):
        folder = tmp_path / "lora" / role
        folder.mkdir(parents=True)
        config = {"base_model_name_or_path": str(tmp_path / "small")}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "small").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "persona.txt").write_text("You are terse.")
    (tmp_path / "lab.yaml").write_text(
        "roles:\n"
        "  philosopher: {lora_path: ./lora/philosopher, location: VRAM, rag: [plato, seen]}\n"
        "  coder: {lora_path: lora/coder, location: RAM, persona_file: persona.txt}\n"
        "rag:\n"
        "  plato: {location: RAM, source: docs}\n"
        "  seen: {location: SSD, source: docs}\n"
    )
    return tmp_path


@pytest.mark.parametrize("file", ["cluster.yaml", "examples/machines/cluster.yaml"])
def test_the_files_that_we_ship_are_right(file):
    """Nothing is wrong with them or with what they name, and nothing in them is without effect."""
    assert check_file(str(ROOT / file), {}, files=True) == ()


def said(lab: Path, *, files: bool = True) -> list[str]:
    """What check says of the lab, with its folder written as LAB."""
    file = str(lab / "lab.yaml")
    return [str(problem).replace(str(lab), "LAB") for problem in check_file(file, {}, files=files)]


def edit(lab: Path, old: str, new: str) -> None:
    """Change the file."""
    file = lab / "lab.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_right_file_has_no_problems(lab):
    """Nothing is wrong with a lab whose files exist; the minimal form finds its base in the adapters."""
    assert said(lab) == []
    assert render((), "lab.yaml") == "lab.yaml: nothing is wrong"


def test_a_file_that_is_missing_says_where_it_was_looked_for(tmp_path, monkeypatch):
    """CFG001 has the absolute path and the working directory (row 1)."""
    monkeypatch.chdir(tmp_path)
    (problem,) = check_file("lab.yaml", {})
    assert problem.code == "CFG001"
    assert f"{tmp_path}/lab.yaml (looked from {tmp_path})" in str(problem)
    (problem,) = check_file(str(tmp_path), {})
    assert str(problem).startswith(f"{tmp_path}: Is a directory: ")


def test_a_file_of_any_name_is_read(lab):
    """The name of the file is only its name in messages."""
    (lab / "lab.yaml").rename(lab / "das labor.json")
    (problem,) = check_file(str(lab / "das labor.json"), {}, files=False) or (None,)
    assert problem is None


def test_parsing_does_not_ask_for_files(lab):
    """Without `files` a missing adapter is no error."""
    edit(lab, "./lora/philosopher", "/nowhere/philosopher")
    assert said(lab, files=False) == []


def test_each_missing_file_is_named_with_its_line(lab):
    """CFG060 for adapters, documents, indexes and bases, with the path, all at once (row 34)."""
    edit(lab, "lora_path: ./lora/philosopher", "base: m, lora_path: ./lora/plato")
    edit(lab, "lora_path: lora/coder", "base: m, lora_path: ./persona.txt")
    edit(lab, "seen: {location: SSD, source: docs}", "seen: {location: SSD, path: index}")
    edit(lab, "source: docs", "source: books")
    edit(lab, "rag:\n  plato", "bases: {m: {model: ./big}}\nrag:\n  plato")
    assert said(lab) == [
        "LAB/lab.yaml:2:37 roles.philosopher.lora_path: there is no folder LAB/lora/plato on this machine [CFG060]",
        "LAB/lab.yaml:3:31 roles.coder.lora_path: LAB/persona.txt is a file; a folder is needed [CFG060]",
        "LAB/lab.yaml:4:20 bases.m.model: there is no folder LAB/big on this machine [CFG060]",
        "LAB/lab.yaml:6:34 rag.plato.source: there are no documents at LAB/books on this machine [CFG060]",
        "LAB/lab.yaml:7:31 rag.seen.path: there is no folder LAB/index on this machine [CFG060]",
    ]


def test_hub_ids_and_addresses_are_not_looked_for(lab):
    """What may lie in the network cannot be checked offline, and is no error."""
    edit(lab, "./lora/philosopher, location: VRAM", "org/philosopher, location: network, base: m")
    edit(lab, "lora/coder, location: RAM", '"https://host/coder", location: network, base: m')
    edit(lab, "rag:\n  plato", "bases: {m: {model: org/small}}\nrag:\n  plato")
    assert said(lab) == []


@pytest.mark.parametrize("path", ["org/coder", "https://host/coder"])
def test_an_adapter_may_come_from_the_network_to_any_home(lab, path):
    """An id or an address is fetched, whichever tier it then rests in; what begins as a path has to be there."""
    edit(lab, "lora_path: lora/coder", f'base: m, lora_path: "{path}"')
    edit(lab, "rag:\n  plato", "bases: {m: {model: org/small}}\nrag:\n  plato")
    edit(lab, "lora_path: ./lora/philosopher", "base: m, lora_path: ./lora/plato")
    assert said(lab) == [
        "LAB/lab.yaml:2:37 roles.philosopher.lora_path: there is no folder LAB/lora/plato on this machine [CFG060]"
    ]


@pytest.mark.parametrize("path", ["org/coder", "https://host/coder"])
def test_an_adapter_that_is_not_here_cannot_name_its_base(lab, path):
    """The base of what is fetched later has to be in the file: CFG025."""
    edit(lab, "lora_path: lora/coder", f'lora_path: "{path}"')
    (fault,) = said(lab)
    assert fault == (
        "LAB/lab.yaml:3:3 roles.coder: which base? its adapter is not on this machine to say so; "
        "list its base under bases: [CFG025]"
    )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/" + "a" * 300, f"File name too long: /{'a' * 300} [CFG060]"),
        ("a\\0b", "embedded null byte: LAB/a·b [CFG060]"),
        ("~\\0b", "embedded null byte: LAB/~·b [CFG060]"),
        ("./loop", "Too many levels of symbolic links: LAB/loop [CFG060]"),
    ],
)
@pytest.mark.parametrize(
    "place", ["roles.coder.lora_path", "bases.m.model", "rag.plato.source", "rag.i.path"]
)
def test_what_can_be_no_path_is_an_error_of_its_field(lab, path, message, place):
    """A path that the machine refuses to look up is CFG060 with the reason, in whatever field."""
    (lab / "loop").symlink_to("loop")
    written = {
        "roles.coder.lora_path": "./lora/coder",
        "bases.m.model": "./small",
        "rag.plato.source": "./docs",
        "rag.i.path": "./docs",
    }
    written[place] = path
    (lab / "lab.yaml").write_text(
        f'roles: {{coder: {{lora_path: "{written["roles.coder.lora_path"]}", location: RAM, rag: [plato, i]}}}}\n'
        f'bases: {{m: {{model: "{written["bases.m.model"]}"}}}}\n'
        f'rag: {{plato: {{location: RAM, source: "{written["rag.plato.source"]}"}},\n'
        f'  i: {{location: SSD, path: "{written["rag.i.path"]}"}}}}\n'
    )
    (fault,) = [line.partition(" ")[2] for line in said(lab) if not line.endswith("[L6]")]
    assert fault == f"{place}: {message}"


def test_the_base_that_an_adapter_names_has_to_be_there(lab):
    """In the minimal form the folder of the base is looked for as well: CFG060 at the adapter that names it."""
    config = {"base_model_name_or_path": "/nonexist/base"}
    (lab / "lora/coder/adapter_config.json").write_text(json.dumps(config))
    assert said(lab) == [
        "LAB/lab.yaml:3:22 roles.coder.lora_path: the base that it names: there is no folder /nonexist/base on this machine [CFG060]"
    ]
    (lab / "lora/coder/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    assert said(lab) == []


@pytest.mark.parametrize(("pin", "code"), [("true", "CFG032"), ("false", "L5")])
def test_the_slots_of_a_base_that_the_adapters_name_are_counted(lab, pin, code):
    """Nine roles in VRAM on a base of the minimal form are told as those of a base of the file."""
    role = f"{{lora_path: ./lora/coder, location: VRAM, pin: {pin}}}"
    (lab / "lab.yaml").write_text("roles:\n" + "".join(f"  r{n}: {role}\n" for n in range(9)))
    assert code in [line[-len(code) - 1 : -1] for line in said(lab)]


def test_an_adapter_config_that_nests_too_deep_is_an_error(lab):
    """JSON that no parser can read names no base: CFG025."""
    (lab / "lora/coder/adapter_config.json").write_text("[" * 100_000)
    (line,) = said(lab)
    assert line.startswith("LAB/lab.yaml:3:3 roles.coder: no base, and its adapter cannot say which: ")


def test_a_role_whose_base_cannot_be_found_out_is_named(lab):
    """In the minimal form each adapter has to say its base: CFG025 names the role and the file, for all roles."""
    (lab / "lora/philosopher/adapter_config.json").unlink()
    (lab / "lora/coder/adapter_config.json").write_text("{}")
    first, second = said(lab)
    assert first.startswith("LAB/lab.yaml:2:3 roles.philosopher: ")
    assert "LAB/lora/philosopher/adapter_config.json" in first
    assert second.startswith("LAB/lab.yaml:3:3 roles.coder: ")
    assert "LAB/lora/coder/adapter_config.json" in second
    assert all(line.endswith("[CFG025]") for line in (first, second))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "No such file or directory: LAB/persona.txt [CFG070]"),
        (b"\xff", "LAB/persona.txt is not UTF-8 at byte 0 [CFG070]"),
        (b"x" * 65_537, "LAB/persona.txt: a persona of 64.0 KiB; at most 64.0 KiB [CFG071]"),
        (b"<|im_end|>", "LAB/persona.txt: the chat template's control token '<|im_end|>' cannot be part of a persona [CFG072]"),
        (b"{{name}}", "LAB/persona.txt: '{{name}}' is not defined; a persona is plain text without variables [CFG073]"),
    ],
)  # fmt: skip
def test_a_persona_file_is_read(lab, raw, message):
    """A persona in a file follows the rules of one in the lab's file (row 39)."""
    (lab / "persona.txt").unlink()
    if raw is not None:
        (lab / "persona.txt").write_bytes(raw)
    assert said(lab) == [f"LAB/lab.yaml:3:63 roles.coder.persona_file: {message}"]


def test_a_persona_file_that_can_be_no_path_is_an_error(lab):
    """A NUL in the name is CFG070 with the reason."""
    edit(lab, "persona_file: persona.txt", r'persona_file: "a\0b"')
    assert said(lab) == ["LAB/lab.yaml:3:63 roles.coder.persona_file: embedded null byte: LAB/a·b [CFG070]"]


def test_an_address_is_shown_without_its_token(lab):
    """A message that names an address masks what is secret in it (row 31)."""
    edit(lab, "persona.txt", '"https://host/coder?token=hunter2"')
    (problem,) = check_file(str(lab / "lab.yaml"), {}, files=True)
    assert problem.code == "CFG070"
    assert "hunter2" not in render((problem,), "lab.yaml") + repr(problem)


def test_settings_without_effect_are_warnings_at_their_lines(lab):
    """What `up` will say of settings that no lab serves yet, check says before: L6."""
    edit(
        lab,
        "rag:\n  plato: {",
        "serve: {port: 9000}\nrag:\n  far: {location: network, url: u, collection: c, pin: true}\n"
        "  plato: {tenant_key: team, ",
    )
    edit(lab, "[plato, seen]", "[plato, seen, far]")
    assert said(lab, files=False) == [
        "LAB/lab.yaml:4:1 serve: taken, and without effect in this version [L6]",
        "LAB/lab.yaml:6:56 rag.far.pin: taken, and without effect in this version (what rests on a server stays there) [L6]",
        "LAB/lab.yaml:7:23 rag.plato.tenant_key: taken, and without effect in this version [L6]",
    ]


def test_problems_are_shown_with_their_lines(lab):
    """Each problem has its source line and a caret, and at the end they are counted."""
    edit(lab, "location: VRAM", "location: vrm")
    edit(lab, "  seen: {", "  seen: {pin: true, ")
    edit(lab, "rag: [plato, seen]", "rag: [plato]")
    file = str(lab / "lab.yaml")
    assert render(check_file(file, {}), "lab.yaml").replace(str(lab), "LAB").splitlines() == [
        "LAB/lab.yaml:2:58 roles.philosopher.location: unknown tier 'vrm'; did you mean 'vram'? [CFG021]",
        "  2 |   philosopher: {lora_path: ./lora/philosopher, location: vrm, rag: [plato]}",
        "    |                                                          ^",
        "lab.yaml: 1 error, 0 warnings",
    ]


def test_warnings_are_shown_and_are_no_errors(lab):
    """A shard that nobody reads is said, and the lab can be used."""
    edit(lab, ", seen]", "]")
    (problem,) = check_file(str(lab / "lab.yaml"), {}, files=True)
    assert (problem.code, problem.severity) == ("L3", "warning")
    assert render((problem,), "lab.yaml").endswith("\nlab.yaml: 0 errors, 1 warning")


def test_the_environment_is_an_argument(lab):
    """Variables come from the environment that check is given."""
    edit(lab, "./lora/philosopher", '"${LORA}/philosopher"')
    file = str(lab / "lab.yaml")
    assert [problem.code for problem in check_file(file, {})] == ["CFG040"]
    assert check_file(file, {"LORA": str(lab / "lora")}, files=True) == ()


CHECK = (
    "import sys, time; from actors.cli.check import check_file, render\n"
    "print(render(check_file('cluster.yaml', {}), 'cluster.yaml'))\n"
    "print(sorted({'ray', 'torch', 'numpy', 'transformers'} & sys.modules.keys()))\n"
    "print(time.process_time())"
)


def test_the_demo_lab_is_checked_within_a_second():
    """A fresh process spends under a second on the file at the root, and loads neither Ray nor torch."""
    done = subprocess.run([sys.executable, "-c", CHECK], cwd=ROOT, check=True, capture_output=True, text=True)
    said, heavy, spent_s = done.stdout.splitlines()
    assert said == "cluster.yaml: nothing is wrong"
    assert heavy == "[]"
    assert float(spent_s) < 1
