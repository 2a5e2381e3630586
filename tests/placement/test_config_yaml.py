# ruff: noqa: E501  (messages stand here as they are printed)
"""Strict YAML: rows 2 to 11, 17 and 22 of the table of bad inputs, and JSON through the same door."""

import json
import time

import pytest

from placement.config import ConfigError, load
from placement.config.problems import Mark
from placement.config.strict_yaml import MAX_NBYTES, decode, read
from placement.config.tree import locate, resolve

ROLE = "roles: {coder: {lora_path: ./coder, location: RAM}}\n"


def faults(text: str) -> list[str]:
    """The problems of a text that cannot be loaded."""
    with pytest.raises(ConfigError) as caught:
        load(text, {})
    return [str(problem) for problem in caught.value.problems]


def aliases(levels: int, width: int) -> str:
    """A text whose aliases expand to width ** levels values."""
    lines = [f"a0: &a0 [{', '.join('x' * width)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize("text", ["", "  \n", "# only a comment\n", "---\n", "{}", "--- # nothing\n...\n"])
def test_an_empty_file_says_what_a_lab_needs(text):
    """Nothing to read is CFG002, with the smallest lab in the message (row 2)."""
    (fault,) = faults(text)
    assert fault.startswith("cluster.yaml: the file is empty; the smallest lab is `roles:")
    assert fault.endswith("[CFG002]")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("roles:\n\tcoder: 1\n", "cluster.yaml:2:1: a tab cannot indent YAML; use spaces [CFG003]"),
        (
            "roles:\n  coder: x: y\n",
            (
                "cluster.yaml:2:11: not valid YAML: a second ': ' on this line; check the indentation, or quote "
                "the value [CFG003]"
            ),
        ),
        (
            "roles: {coder: {lora_path: ${HOME}/x}}\n",
            (
                "cluster.yaml:1:29: not valid YAML: expected ',' or '}', but got '{'; quote a value that has "
                "braces [CFG003]"
            ),
        ),
        (
            "roles: {coder: 1,\n  x",
            (
                "cluster.yaml:2:4: not valid YAML: expected ',' or '}', but got '<stream end>' (while parsing a "
                "flow mapping that begins at line 1) [CFG003]"
            ),
        ),
        (
            "roles: {coder: {persona: {{name}}}}",
            "cluster.yaml:1:27: a key must be plain text; quote a value that begins with { or [ [CFG003]",
        ),
        ("roles: *none\n", "cluster.yaml:1:8: the alias '*none' has no anchor &none above it [CFG003]"),
    ],
)
def test_bad_syntax_has_its_place(text, fault):
    """What is not YAML is CFG003 at line and column (row 3)."""
    assert faults(text) == [fault]


def test_the_snippet_points_at_the_place():
    """The source line is shown with a caret below the column (row 3)."""
    with pytest.raises(ConfigError) as caught:
        load("lab: athens\nroles:\n\tcoder: 1\n", {})
    assert caught.value.problems[0].snippet() == "  3 | →coder: 1\n    | ^"


def test_a_long_line_is_shown_around_the_place():
    """A very long line does not flood the screen, and the caret is still right."""
    with pytest.raises(ConfigError) as caught:
        load(f"lab: '{'x' * 10**5}'\nroles: {{{' ' * 500}coder: {{lora_path: x, location: vrm}}}}\n", {})
    for problem in caught.value.problems:
        line, caret = problem.snippet().split("\n")
        assert len(line) < 140
        assert line[len(caret) - 1] == problem.source[problem.col - 1]


def test_a_duplicate_key_names_both_lines():
    """PyYAML would keep the last in silence; here both lines are named, and all such keys (row 4)."""
    text = ROLE + "lab: a\nlab: b\nrag: {x: {location: RAM, source: d, source: e}}\n"
    assert [fault for fault in faults(text) if "CFG004" in fault] == [
        "cluster.yaml:3:1: the key 'lab' is already there at line 2 [CFG004]",
        "cluster.yaml:4:37: the key 'source' is already there at line 4 [CFG004]",
    ]


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!str", "!secret", "!"])
def test_tags_are_refused(tag):
    """No tag makes an object of anything (row 5)."""
    (fault,) = faults(f"lab: {tag} x\n{ROLE}")
    assert fault.startswith("cluster.yaml:1:6: the tag ")
    assert fault.endswith("is not allowed; write plain values [CFG005]")


def test_an_alias_bomb_is_refused_before_it_expands():
    """A few hundred bytes that mean 10**9 values are refused at once (row 6)."""
    began = time.process_time()
    (fault,) = faults(aliases(levels=9, width=10))
    assert fault.endswith("aliases expand to more than 10,000 values [CFG006]")
    assert time.process_time() - began < 1


def test_a_recursive_alias_is_refused():
    """A node that contains itself is CFG006 (row 7)."""
    assert faults("roles: &a [*a]\n") == ["cluster.yaml:1:12: the alias '*a' contains itself [CFG006]"]


def test_an_alias_stands_for_its_anchor():
    """An honest alias is what its anchor is."""
    text = (
        "roles:\n"
        "  a: {lora_path: x, location: VRAM, unload: &slow {idle: 2h, to: RAM}}\n"
        "  b: {lora_path: y, location: VRAM, unload: *slow}\n"
    )
    lab = load(text, {})
    assert lab.roles["b"].unload == lab.roles["a"].unload
    assert lab.roles["b"].unload.idle_s == 7200.0


@pytest.mark.parametrize("text", ["[" * 3000, "{a: " * 3000, "\n".join(f"{' ' * n}a:" for n in range(3000))])
def test_deep_nesting_is_refused(text):
    """3,000 levels are CFG007 and no RecursionError (row 8)."""
    (fault,) = faults(text)
    assert fault.endswith("nested deeper than 64 levels [CFG007]")


def test_aliases_do_not_hide_depth():
    """A chain of aliases that nests deeper than 64 levels is refused too."""
    text = "a: &a [[[[[[[[[[x]]]]]]]]]]\n" + "".join(
        f"{name}: &{name} [[[[[[[[[[*{before}]]]]]]]]]]\n"
        for before, name in zip("abcdefg", "bcdefgh", strict=True)
    )
    assert any(fault.endswith("nests deeper than 64 levels [CFG007]") for fault in faults(text))


def test_a_huge_file_is_refused_unread():
    """More than 5 MB is CFG008, as bytes and as text (row 9)."""
    with pytest.raises(ConfigError, match=r"5,000,001 bytes; .*\[CFG008\]"):
        decode(b"#" * (MAX_NBYTES + 1), "cluster.yaml")
    assert faults("#" * (MAX_NBYTES + 1))[0].endswith("[CFG008]")


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"lab: a\nx: \xff\n", "cluster.yaml:2:4: byte 0xff is not UTF-8; save it as UTF-8 [CFG009]"),
        (
            "é: ".encode() + "\xe9".encode("latin-1"),
            "cluster.yaml:1:4: byte 0xe9 is not UTF-8; save it as UTF-8 [CFG009]",
        ),
        (b"lab: a\0b\n", "cluster.yaml:1:7: a NUL character; this is not a text file [CFG009]"),
        (b"\xef\xbb\xbflab: \xff\n", "cluster.yaml:1:6: byte 0xff is not UTF-8; save it as UTF-8 [CFG009]"),
        (b"\xef\xbb\xbfa: b\n\xff", "cluster.yaml:2:1: byte 0xff is not UTF-8; save it as UTF-8 [CFG009]"),
        (b"\xff\xfel\0a\0b\0", "cluster.yaml:1:1: byte 0xff is not UTF-8; save it as UTF-8 [CFG009]"),
    ],
)
def test_what_is_no_text_is_refused(raw, fault):
    """Bytes that are not UTF-8, and NUL, are CFG009 at their place (row 10)."""
    with pytest.raises(ConfigError) as caught:
        decode(raw, "cluster.yaml")
    assert str(caught.value) == fault


def test_control_characters_are_refused():
    """A control character is CFG009, and is not sent to the terminal."""
    with pytest.raises(ConfigError) as caught:
        load("lab: a\nx: \x1b[31m\n", {})
    (problem,) = caught.value.problems
    assert (problem.code, problem.line, problem.col) == ("CFG009", 2, 4)
    assert "\x1b" not in problem.snippet() + str(problem)


def test_a_byte_order_mark_is_accepted():
    """Windows editors write one; places are counted without it (row 10)."""
    text = decode(b"\xef\xbb\xbf" + ROLE.encode(), "cluster.yaml")
    assert load(text, {}).roles.keys() == {"coder"}
    assert faults("\ufefflb: x\n") == faults("lb: x\n")


def test_windows_line_ends_are_accepted():
    """Lines that end in CR LF have the same places."""
    text = "lab: athens\nroles:\n  coder: {lora_path: x, location: vrm}\n"
    assert faults(text.replace("\n", "\r\n")) == faults(text)


def test_a_second_document_is_refused():
    """One file is one lab: a second `---` is CFG010 at its line (row 11)."""
    assert faults("---\nlab: a\n---\nlab: b\n") == [
        "cluster.yaml:3:1: a second document begins here; one file describes one lab [CFG010]"
    ]
    assert load(f"---\n{ROLE}...\n", {}).roles.keys() == {"coder"}


@pytest.mark.parametrize("text", ["[1, 2]", "just text", "3"])
def test_a_file_is_a_mapping(text):
    """A list or a word is no lab."""
    (fault,) = faults(text)
    assert fault.endswith("[CFG022]")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("1.20", 1.2),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("-.inf", float("-inf")),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("2026-11-23", "2026-11-23"),
        ("<<", "<<"),
        ("9" * 5000, float("inf")),
    ],
)
def test_plain_scalars_are_those_of_yaml_1_2(text, value):
    """No Norway, no octal by a leading zero, no sexagesimal, no dates (row 17)."""
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


LAB = {
    "lab": "athens",
    "roles": {
        "coder": {
            "lora_path": "C:\\coder/\u00e9\U0001f600",
            "location": "RAM",
            "generation": {"temperature": 0.5, "seed": None, "stop": ["a\tb", "c\nd"]},
            "pin": True,
        }
    },
}


@pytest.mark.parametrize("indent", [None, 2, "\t"])
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_json_is_read_as_it_is(indent, ensure_ascii):
    """JSON loads whatever its white space and escapes, tabs and surrogate pairs included."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(LAB, indent=indent, ensure_ascii=ensure_ascii, separators=separators)
    role = load(text, {}, name="lab.json").roles["coder"]
    assert role.lora_path == "C:\\coder/\u00e9\U0001f600"
    assert role.generation.stop == ("a\tb", "c\nd")
    assert (role.pin, role.generation.seed, role.generation.temperature) == (True, None, 0.5)


def test_problems_of_json_have_their_places():
    """Line and column are those of the JSON file, with tabs counted as one column."""
    text = '{\n\t"roles": {\n\t\t"coder": {"lora_path": "x", "location": "vrm"}\n\t}\n}\n'
    with pytest.raises(ConfigError) as caught:
        load(text, {}, name="lab.json")
    assert str(caught.value) == (
        "lab.json:3:43 roles.coder.location: unknown tier 'vrm'; did you mean 'vram'? [CFG021]"
    )
    assert caught.value.problems[0].snippet().startswith('  3 | →→"coder": {')


def test_a_place_in_the_tree_is_found_by_its_path():
    """The key and the value at a path have their own places, through lists as well."""
    tree, _, _ = read("roles:\n  coder:\n    consults:\n      - philosopher\n", "cluster.yaml")
    path, mark, node = locate(tree, ("roles", "coder", "consults", 0, "deeper"))
    assert path == ("roles", "coder", "consults", 0)
    assert mark == node.mark == Mark(4, 9)
    assert locate(tree, ("roles", "coder"))[1] == Mark(2, 3)
