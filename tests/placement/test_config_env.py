# ruff: noqa: E501  (messages stand here as they are printed)
"""The environment and secrets: rows 28, 29 and 31 of the table of bad inputs."""

import pickle

import pytest

from placement.config import ConfigError, load
from placement.config.masking import mask

ENV = {"HOME": "/srv", "EMPTY": "", "SLOTS": "4", "TOKEN": "hunter2-hunter2", "PIN": "true", "SIZE": "1GiB"}


def faults(text: str) -> list[str]:
    """The problems of a text that cannot be loaded in that environment."""
    with pytest.raises(ConfigError) as caught:
        load(text, ENV)
    return [str(problem).removeprefix("cluster.yaml:") for problem in caught.value.problems]


def path_of(written: str) -> str:
    """What a path becomes that is written so."""
    return load(f"roles: {{r: {{lora_path: {written}, location: RAM}}}}\n", ENV).roles["r"].lora_path


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('"${HOME}/lora"', "/srv/lora"),
        ('"${NONE:-/opt}/lora"', "/opt/lora"),
        ('"${HOME:-/opt}${NONE:-}"', "/srv"),
        ('"x${EMPTY}"', "x"),
        ('"${EMPTY:-y}"', "y"),
        ('"$${HOME}"', "${HOME}"),
        ('"$$$${HOME}/$HOME/$5"', "$${HOME}/$HOME/$5"),
        ('"${NONE:-a$b}"', "a$b"),
        ("'${HOME}'", "/srv"),
    ],
)
def test_variables_are_put_into_values(written, value):
    """`${NAME}` and `${NAME:-default}` are replaced, `$$` is a dollar, and nothing else is special."""
    assert path_of(written) == value


def test_a_value_is_not_searched_for_variables_again():
    """What comes out of the environment is taken as it is."""
    lab = load('roles: {r: {lora_path: "${A}", location: RAM}}\n', {"A": "${B} $$"})
    assert lab.roles["r"].lora_path == "${B} $$"


def test_numbers_and_sizes_can_come_from_the_environment():
    """A quoted reference is read as what the field needs."""
    text = (
        'nodes: {desk: {vram: "${SIZE}"}}\n'
        'bases: {m: {model: x, slots: "${SLOTS}", deterministic: "${PIN}", kv_cache: "${NONE:-1MiB}"}}\n'
        'roles: {r: {lora_path: "${SLOTS}", location: "${NONE:-ssd}", generation: {temperature: "${SLOTS:-1}e-1"}}}\n'
    )
    lab = load(text, ENV)
    base = lab.bases["m"]
    assert (lab.nodes["desk"].vram, base.slots, base.deterministic, base.kv_cache) == (2**30, 4, True, 2**20)
    assert (lab.roles["r"].lora_path, lab.roles["r"].generation.temperature) == ("4", 0.4)


def test_an_unset_variable_is_named():
    """CFG040 names the variable at its place, once for each use (row 28)."""
    text = 'roles:\n  r:\n    lora_path: "${HOME}/${NONE}"\n    location: RAM\n    persona: |\n      Hello\n      ${OTHER}\n'
    message = "the environment variable {0} is not set; set it, or write ${{{0}:-default}} [CFG040]"
    assert faults(text) == [
        f"3:25 roles.r.lora_path: {message.format('NONE')}",
        f"7:7 roles.r.persona: {message.format('OTHER')}",
    ]


@pytest.mark.parametrize("written", ["${A:-${B", "${A:-${B}}", "${A", "${}", "${1A}", "${A-b}", "a ${ b"])
def test_a_bad_reference_is_refused(written):
    """What is unterminated, nested or misspelt is CFG041 (row 29)."""
    (fault,) = faults(f'roles:\n  r: {{location: RAM, lora_path: "{written}"}}\n')
    assert fault.startswith("2:")
    assert fault.endswith("write $${ for the characters themselves [CFG041]")


def test_a_wrong_value_of_the_environment_is_not_shown():
    """Whatever is wrong with a value from the environment, the message shows the reference (row 28)."""
    text = (
        'nodes: {desk: {vram: "${TOKEN}", ssd: {path: "${TOKEN}", budget: "${TOKEN}1GiB"}}}\n'
        'bases: {m: {model: x, node: "${TOKEN}", device: "${TOKEN}", dtype: "${TOKEN}", slots: "${TOKEN}"}}\n'
        'roles: {r: {lora_path: x, location: "${TOKEN}", base: "${TOKEN}", rag: ["${TOKEN}"], pin: "${TOKEN}",\n'
        '  consults: ["${TOKEN}"], unload: {idle: "${TOKEN}"}, warm: {at: "${TOKEN}"}, generation: {seed: "${TOKEN}"}}}\n'
        'policy: {vram_high: "${TOKEN}"}\n'
        'serve: {host: "${TOKEN}"}\n'
    )
    with pytest.raises(ConfigError) as caught:
        load(text, ENV)
    problems = caught.value.problems
    assert len(problems) == 16
    assert sum("${TOKEN}" in problem.message for problem in problems) == 15
    printed = "".join(f"{problem}{problem.snippet()}{problem!r}" for problem in problems)
    assert "hunter2" not in printed + repr(caught.value) + str(caught.value)


KEYED = 'rag: {p: {location: network, url: "http://q:6333", collection: c, api_key: %s}}\n'


def test_a_secret_is_not_printed():
    """The key is there for who asks for it, and in no text of the lab."""
    lab = load(KEYED % '"${TOKEN}"', ENV)
    secret = lab.rag["p"].api_key
    assert secret is not None
    assert secret.get_secret_value() == "hunter2-hunter2"
    assert "hunter2" not in f"{lab}{lab!r}{lab.model_dump()}{lab.model_dump_json()}"
    assert [warning.code for warning in lab.warnings] == ["L3"]


def test_a_secret_in_the_file_is_a_warning_that_does_not_repeat_it():
    """A literal key is L2, and the line is shown with the key masked (row 31)."""
    lab = load(KEYED % '"sk-12345678"', {})
    (warning,) = [warning for warning in lab.warnings if warning.code == "L2"]
    assert str(warning) == (
        'cluster.yaml:1:76 rag.p.api_key: a secret is written into the file; write "${NAME}" and set it in the '
        "environment [L2]"
    )
    assert "12345678" not in warning.snippet() + repr(lab) + pickle.dumps(lab.warnings).decode("latin-1")
    assert "collection: c, api_key: *************}}" in warning.snippet()


def test_a_password_in_an_address_is_a_warning():
    """The user part of a URL is a secret too."""
    text = 'rag: {p: {location: network, url: "http://me:hunter2@q:6333", collection: c}}\n'
    warning = load(text, {}).warnings[-1]
    assert warning.code == "L2"
    assert "hunter2" not in warning.snippet() + str(warning)
    assert load(text.replace("me:hunter2", "${TOKEN}"), ENV).warnings[-1].code == "L3"


def test_other_problems_of_a_line_do_not_show_its_secret():
    """An error beside a key, a key of the wrong type, and broken YAML all mask the key."""
    for text in (
        KEYED.replace("collection", "colection") % "hunter2-hunter2",
        KEYED % "20261123",
        KEYED.replace("}}", "]") % "hunter2-hunter2",
        "rag: {p: {location: network, api_kee: x, token: 'hunter2-hunter2'}}\n",
        "lora_path: hf_hunter2hunter2\n",
    ):
        with pytest.raises(ConfigError) as caught:
            load(text, {})
        printed = "".join(f"{problem}{problem.snippet()}" for problem in caught.value.problems)
        assert "hunter2" not in printed
        assert "20261123" not in printed
        assert "*" in printed


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        ('api_key: "a b", x: 1', "api_key: *****, x: 1"),
        ("  password: a b c", "  password: *****"),
        ('{"api_key":"x","n":1}', '{"api_key":***,"n":1}'),
        ('api_key: "${NAME}"', 'api_key: "${NAME}"'),
        ('api_key: "${NAME:-sk-1}"', "api_key: ***************"),
        ("tenant_key: team", "tenant_key: team"),
        ("model: sk-abcdefgh1", "model: ************"),
        ("api_keys: [{name: x}]", "api_keys: [{name: x}]"),
    ],
)
def test_masking_keeps_the_length_of_a_line(line, masked):
    """Secrets become asterisks in place, so that a caret below the line stays right."""
    assert mask(line) == masked
    assert len(masked) == len(line)
