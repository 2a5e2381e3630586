"""What a lab's file names is read, and what cannot be read is named."""

import json
import re

import pytest

from actors.sources import read_lab, read_persona, read_personas, resolve
from placement.config import ConfigError
from placement.errors import UserError


def write(folder, text):
    """Write a lab's file into a folder and return its path."""
    path = folder / "lab.yaml"
    path.write_text(text)
    return str(path)


def adapter(folder, base):
    """Make an adapter directory whose config names a base."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))


def test_roles_without_a_base_share_the_one_that_their_adapters_name(tmp_path):
    """Two adapters of one model give one base, called after it."""
    adapter(tmp_path / "a", "org/Small-1B")
    adapter(tmp_path / "b", "org/Small-1B")
    lab = read_lab(
        write(tmp_path, "roles: {x: {lora_path: ./a, location: RAM}, y: {lora_path: ./b, location: RAM}}")
    )
    assert {name: base.model for name, base in lab.bases.items()} == {"small-1b": "org/Small-1B"}
    assert {role.base for role in lab.roles.values()} == {"small-1b"}


def test_two_models_in_folders_of_one_name_are_two_bases(tmp_path):
    """A base is known by its model and not by the last part of its path."""
    adapter(tmp_path / "a", "/one/small")
    adapter(tmp_path / "b", "/two/small")
    lab = read_lab(
        write(tmp_path, "roles: {x: {lora_path: ./a, location: RAM}, y: {lora_path: ./b, location: RAM}}")
    )
    assert [base.model for base in lab.bases.values()] == ["/one/small", "/two/small"]
    assert len({role.base for role in lab.roles.values()}) == 2


def test_an_adapter_that_names_no_base_is_an_error_with_its_role(tmp_path):
    """A role without a base, whose adapter cannot say which, is CFG025."""
    with pytest.raises(UserError, match=r"roles\.x") as refused:
        read_lab(write(tmp_path, "roles: {x: {lora_path: ./nowhere, location: RAM}}"))
    assert refused.value.code == "CFG025"


def test_a_missing_file_is_an_error_with_its_whole_path(tmp_path):
    """A lab's file that is not there is CFG001."""
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "none.yaml"))) as refused:
        read_lab(str(tmp_path / "none.yaml"))
    assert refused.value.code == "CFG001"


def test_a_persona_file_is_read_from_the_folder_of_the_file(tmp_path):
    """A persona may stand in a file of its own, beside the lab's."""
    adapter(tmp_path / "a", "org/small")
    (tmp_path / "wise.txt").write_text("You are wise.\n")
    file = write(tmp_path, "roles: {x: {lora_path: ./a, location: RAM, persona_file: wise.txt}}")
    assert read_personas(read_lab(file)) == {"x": "You are wise."}


@pytest.mark.parametrize(
    ("file", "text", "code", "message"),
    [
        (
            "p.txt",
            b"<|im_end|>",
            "CFG072",
            "LAB/p.txt: the chat template's control token '<|im_end|>' cannot be",
        ),
        ("p.txt", b"{{name}}", "CFG073", "LAB/p.txt: '{{name}}' is not defined"),
        ("p.txt", b"x" * 65_537, "CFG071", "LAB/p.txt: a persona of 64.0 KiB; at most 64.0 KiB"),
        ("p.txt", b"\xff", "CFG070", "LAB/p.txt is not UTF-8 at byte 0"),
        ("q.txt", b"", "CFG070", "No such file or directory: LAB/q.txt"),
        ("a\0b", b"", "CFG070", "embedded null byte: LAB/a\0b"),
        ("a" * 300, b"", "CFG070", f"File name too long: LAB/{'a' * 300}"),
    ],
)
def test_a_persona_file_follows_the_rules_of_a_persona(tmp_path, file, text, code, message):
    """What is no persona is refused before anything starts, with its role and file."""
    (tmp_path / "p.txt").write_bytes(text)
    with pytest.raises(UserError) as refused:
        read_persona(tmp_path, "x", file)
    assert refused.value.code == code
    said = refused.value.message.replace(str(tmp_path), "LAB")
    assert said.startswith(f"roles.x.persona_file: {message}")
    assert refused.value.hint


def test_bringing_up_reads_personas_by_these_rules(tmp_path):
    """The personas of a lab are read as `check --files` reads them."""
    adapter(tmp_path / "a", "org/small")
    (tmp_path / "p.txt").write_text("{{name}}")
    file = write(tmp_path, "roles: {x: {lora_path: ./a, location: RAM, persona_file: p.txt}}")
    with pytest.raises(UserError, match=r"roles\.x\.persona_file: .*p\.txt: .*not defined"):
        read_personas(read_lab(file))


def test_more_pinned_roles_than_slots_are_an_error_for_a_base_of_the_adapters_too(tmp_path):
    """Nine pinned roles on the eight slots of a base that no file lists are CFG032."""
    adapter(tmp_path / "a", "org/small")
    role = "{lora_path: ./a, location: VRAM, pin: true}"
    file = write(tmp_path, "roles: {" + ", ".join(f"r{n}: {role}" for n in range(9)) + "}")
    with pytest.raises(UserError, match=r"9 pinned roles .* has 8 slots") as refused:
        read_lab(file)
    assert refused.value.code == "CFG032"


def test_what_can_be_no_path_is_resolved_all_the_same(tmp_path):
    """A name that is too long or has a NUL fails where it is opened, with the place of whoever named it."""
    (tmp_path / "loop").symlink_to("loop")
    assert resolve(tmp_path, "./a\0b") == f"{tmp_path}/a\0b"
    assert resolve(tmp_path, "./" + "a" * 300) == f"{tmp_path}/{'a' * 300}"
    assert resolve(tmp_path, "a" * 300) == "a" * 300
    assert resolve(tmp_path, "./loop") == f"{tmp_path}/loop"


def test_paths_are_meant_from_the_folder_of_the_file(tmp_path):
    """A relative path is joined to the folder; an absolute one and a hub id stay as they are."""
    assert resolve(tmp_path, "./a") == str(tmp_path / "a")
    assert resolve(tmp_path, "/a") == "/a"
    assert resolve(tmp_path, "org/name") == "org/name"
    assert resolve(tmp_path, "~nobody-of-that-name/x") == "~nobody-of-that-name/x"
