"""No secret of a file is printed, wherever it stands (row 31 of the table of bad inputs)."""

from dataclasses import asdict

import pytest

from placement.config import ConfigError, load
from placement.config import problems as problems_module
from placement.config.masking import secret_depth
from placement.config.schema import ENTRIES, Lab, fields_of


def printed(text: str) -> str:
    """All that is printed of the problems of a text: lines, snippets, and the objects of --json."""
    try:
        found = load(text, {}).warnings
    except ConfigError as error:
        found = error.problems
    assert found
    return "\n".join(f"{problem}\n{problem.snippet()}\n{asdict(problem)}" for problem in found)


SHARD = "rag:\n  s:\n    location: network\n    url: x\n    colection: c\n"


@pytest.mark.parametrize(
    "text",
    [
        SHARD + "    api_key:\n      hunter2\n",
        SHARD + "    api_key: |\n      hunter2\n      hunter2\n",
        SHARD + "    api_key: [hunter2, hunter2]\n",
        SHARD + "    api_key: [a,\n      hunter2, 5]\n",
        SHARD + "    api_key: {hunter2: hunter2}\n",
        SHARD + "    api_key: {hunter2: }\n",
        SHARD + "    api_key: {hunter2: 1, hunter2: 2}\n",
        SHARD + "    api_key: !hunter2 x\n",
        SHARD + "    api_key: *hunter2\n",
        SHARD + '    api_key: "${hunter2 x}"\n',
        SHARD + "    api_kee: hunter2\n",
        SHARD + "    headers: {Authorization: Bearer hunter2}\n",
        SHARD + '    headers: ["X-Any: Bearer hunter2"]\n    "x": 5\n',
        "rag: {s: {location: network, collection: c, url: 'http://q/?a=1&token=hunter2', x: 1}}\n",
        "roles: {r: {lora_path: x, location: RAM, rag: 'http://q?api_key=hunter2'}}\n",
        "lab: &k hunter2\nrag: {s: {token: *k}}\n",
        "serve: {api_keys: [hunter2]}\n",
        "serve: {api_keys: hunter2}\n",
        "serve: {api_keys: [{name: a, hsh: hunter2}]}\n",
        "rag:\n  s:\n    api_key:\n      hunter2: x: y\n",
        "rag:\n  s: {api_key: [a, hunter2], url: ]}\n",
    ],
)
def test_a_secret_is_masked_by_its_place(text):
    """What stands below a key of a secret is in no line, no message and no object, broken YAML included."""
    assert "hunter2" not in printed(text)


def test_the_rest_of_the_line_stays_readable():
    """Only the secret becomes asterisks, and the caret stays right."""
    with pytest.raises(ConfigError) as caught:
        load("rag: {s: {api_key: [a, 'b c'], location: rm}}\n", {})
    (problem,) = [problem for problem in caught.value.problems if problem.code == "CFG021"]
    line, caret = problem.snippet().splitlines()
    assert line == "  1 | rag: {s: {api_key: **********, location: rm}}"
    assert line[caret.index("^") :] == "rm}}"


def test_a_name_is_no_key_of_a_secret():
    """A role may be called token: what it says is shown."""
    shown = printed("roles:\n  token:\n    lora_path: x\n    location: floppy\n")
    assert "    location: floppy" in shown


def test_of_all_fields_only_two_hold_secrets():
    """No other field of an entry is taken for one, nor for a misspelt one."""
    models = {Lab, *ENTRIES.values()}
    while inner := {child for model in models for child in fields_of(model).values() if child} - models:
        models |= inner
    fields = {field for model in models for field in fields_of(model)}
    assert {field for field in fields if secret_depth(("x", field, "x"))} == {"api_key", "hash"}


def test_a_line_is_masked_once(monkeypatch):
    """A file of one line with many problems is not masked for each of them."""
    calls = []
    mask = problems_module.mask
    monkeypatch.setattr(problems_module, "mask", lambda *args: calls.append(args) or mask(*args))
    with pytest.raises(ConfigError) as caught:
        load("roles: {r: {" + ", ".join(f"x{n}: 1" for n in range(50)) + "}}\n", {})
    assert len(caught.value.problems) > 50
    assert len(calls) == 1


def test_a_word_is_compared_once(monkeypatch):
    """The same mistake many times asks only once what was meant."""
    calls = []
    matches = problems_module.get_close_matches
    monkeypatch.setattr(
        problems_module,
        "get_close_matches",
        lambda *args, **more: calls.append(args) or matches(*args, **more),
    )
    with pytest.raises(ConfigError):
        load("roles: {r: {lora_path: x, location: RAM, consults: [" + "nobody-at-all, " * 50 + "]}}\n", {})
    assert len(calls) == 1
