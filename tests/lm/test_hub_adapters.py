"""Adapters by hub id, from a small stand-in of the hub: HF_ENDPOINT names it, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lm.host import cut_after, serving, status

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(range(256)) * 400}
FETCH = """
import sys, json
from pathlib import Path
from actors.lm.source import fetch_source
from placement.errors import TierceError
told = []
try:
    where = fetch_source(sys.argv[1], Path(sys.argv[2]), 1 << 20, told.append)
    print(json.dumps(["", where, told]))
except TierceError as error:
    print(json.dumps([error.code, error.message, error.hint]))
"""


def path_of(file, revision="main"):
    """The address of a file of org/critic."""
    return f"/org/critic/resolve/{revision}/{file}"


@pytest.fixture
def hub():
    """A hub with one adapter, whose `main` is one commit."""
    with serving() as host:
        for file, content in FILES.items():
            for revision in ("main", COMMIT):
                host.files[path_of(file, revision)] = content
                host.headers[path_of(file, revision)] = {"X-Repo-Commit": COMMIT}
        yield host


@pytest.fixture
def bring(hub, tmp_path):
    """Fetch an adapter by its id in a new process; return (code, where or message, room or hint)."""

    def bring(model="org/critic", **environment):
        variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", FETCH, model, str(tmp_path / "in")],
            cwd=ROOT,
            env={**os.environ, **variables, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    return bring


def test_an_adapter_comes_by_its_id_with_the_token(hub, bring, tmp_path):
    """Both files of one commit are fetched from HF_ENDPOINT, HF_TOKEN goes along, room is reserved first."""
    code, where, told = bring(HF_TOKEN="hf_secret")
    assert (code, where) == ("", str(tmp_path / "in"))
    assert {file: (tmp_path / "in" / file).read_bytes() for file in FILES} == FILES
    assert told == [2, 2 + len(FILES["adapter_model.safetensors"])]
    for file in FILES:
        assert hub.asked(path_of(file, COMMIT), "Authorization") == ["Bearer hf_secret"]
        assert hub.asked(path_of(file), "Range") == []


def test_a_cut_off_adapter_is_gone_on_with_by_the_next_process(hub, bring):
    """What came stays although the process that fetched it is gone."""
    weights = path_of("adapter_model.safetensors", COMMIT)
    hub.faults[weights].extend([cut_after(60_000), *[status(503)] * 4])
    assert bring()[0] == "STO017"
    hub.faults[weights].clear()
    assert bring()[0] == ""
    assert hub.asked(weights, "Range")[-1] == "bytes=60000-"


def test_large_files_come_from_another_host_without_the_token(hub, bring, tmp_path):
    """The hub redirects weights to a store of its own; the token stays with the hub."""
    weights = path_of("adapter_model.safetensors", COMMIT)
    with serving(files={"/blob": FILES["adapter_model.safetensors"]}) as store:
        hub.faults[weights].append(status(302, Location=f"{store.url}/blob?sig=1"))
        assert bring(HF_TOKEN="hf_secret")[0] == ""
        assert store.asked("/blob", "Authorization") == [None]
    assert (tmp_path / "in" / "adapter_model.safetensors").read_bytes() == FILES["adapter_model.safetensors"]


@pytest.mark.parametrize(
    ("number", "why", "code"),
    [
        (404, "RepoNotFound", "STO010"),
        (401, "RepoNotFound", "STO010"),
        (404, "EntryNotFound", "STO010"),
        (403, "GatedRepo", "STO011"),
        (403, "", "STO011"),
        (503, "", "STO017"),
    ],
)
def test_each_refusal_of_the_hub_is_told_apart(hub, bring, number, why, code):
    """The hub's reasons become codes with the id and a next step; the token is in none."""
    file = path_of("adapter_config.json")
    del hub.files[file]
    hub.missing[file] = (number, {"X-Error-Code": why} if why else {})
    found, message, hint = bring(HF_TOKEN="hf_secret")
    assert (found, "org/critic" in message, bool(hint)) == (code, True, True)
    assert "hf_secret" not in message + hint


def test_what_is_no_id_is_refused(bring):
    """A relative path that nobody made absolute is neither a directory nor an id."""
    assert bring("adapters/of/critic")[0] == "STO019"


def test_offline_without_a_cache_says_so(hub, bring):
    """With HF_HUB_OFFLINE nothing is asked, and the error names the variable."""
    code, message, _ = bring(HF_HUB_OFFLINE="1")
    assert (code, "HF_HUB_OFFLINE" in message) == ("STO012", True)
    assert hub.seen == []


def test_offline_the_cache_is_read_where_it_lies(hub, bring, tmp_path):
    """With HF_HUB_OFFLINE an adapter of the hub's cache serves, and nothing is copied."""
    snapshot = tmp_path / "hf" / "hub" / "models--org--critic" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for file, content in FILES.items():
        (snapshot / file).write_bytes(content)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    assert bring(HF_HUB_OFFLINE="1") == ["", str(snapshot), []]
    assert hub.seen == []


def test_a_hub_that_is_not_there_is_an_error_of_its_own(bring):
    """No connection to HF_ENDPOINT is STO012."""
    with serving() as gone:
        url = gone.url
    assert bring(HF_ENDPOINT=url)[0] == "STO012"
