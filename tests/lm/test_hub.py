"""A base is found in a directory or in the hub's cache."""

import pytest
from huggingface_hub.utils import filter_repo_objects

from actors.lm.hub import locate
from placement.errors import UserError


def test_a_directory_is_its_own_place(tmp_path):
    """A path to a directory is returned as it is."""
    assert locate(str(tmp_path)) == str(tmp_path)


def test_a_hub_id_is_found_in_the_cache(tmp_path, monkeypatch):
    """An id whose snapshot lies in the cache is found there, with nothing asked of the network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "models--org--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text(snapshot.name)
    assert locate("org/tiny", cache_dir=str(tmp_path)) == str(snapshot)


def test_only_the_weights_that_are_loaded_are_fetched(monkeypatch):
    """Of the files of a model, other weights beside the ones that transformers loads are left out."""
    asked = {}
    monkeypatch.setattr(
        "actors.lm.hub.snapshot_download",
        lambda _model, *, allow_patterns, **_: asked.update(of=allow_patterns),
    )
    locate("org/tiny")
    files = [
        "config.json",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "chat_template.jinja",
    ]
    others = ["consolidated.safetensors", "pytorch_model.bin", "onnx/model.onnx"]
    assert list(filter_repo_objects([*files, *others], allow_patterns=asked["of"])) == files


@pytest.mark.parametrize("model", ["/no/such/place", "./nowhere", "org/absent", "not a name/at all/"])
def test_what_is_nowhere_is_an_error_that_names_it(model, tmp_path, monkeypatch):
    """A path or id that leads nowhere is LM010, with the model in the message."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=model) as refused:
        locate(model, cache_dir=str(tmp_path))
    assert refused.value.code == "LM010"
