"""A shard's vectors as a matrix: what is live, in unit length, and texts only for what is still true."""

import numpy as np
import pytest

from actors.rag.matrix import unit
from placement.errors import UserError
from placement.tiers import Tier


def test_the_matrix_holds_what_is_live_and_nothing_else(shelf, put, hashed):
    """Replaced and removed documents are not in it; one that came back is, once."""
    put(shelf, "a.md", "The cat sat.")
    put(shelf, "b.md", "The dog ran.")
    put(shelf, "a.md", "The cat slept.")
    put(shelf, "a.md", "The cat sat.")
    shelf.remove("b.md")
    matrix = shelf.matrix()
    assert (matrix.seq, matrix.vectors.shape) == (shelf.seq, (1, hashed.dim))
    assert matrix.vectors[0] == pytest.approx(hashed.encode(["The cat sat."])[0], abs=1e-6)
    found = [(point, 0.5) for point in matrix.ids]
    assert [(one.text, one.score) for one in shelf.passages(found, matrix.seq)] == [("The cat sat.", 0.5)]


def test_a_search_of_the_matrix_gives_what_the_shard_gives(wide):
    """An exact product over the rows finds the passages that the index in RAM finds, scores included."""
    shelf, vectors = wide
    shelf.rehome(shelf.stats().index_dir + ".ram", Tier.RAM)
    matrix = shelf.matrix()
    question = unit(vectors[7] + vectors[8], 5)
    scores = matrix.vectors @ question
    best = np.argsort(-scores)[:5]
    passages = shelf.passages([(matrix.ids[row], float(scores[row])) for row in best], matrix.seq)
    expected = shelf.search(question, 5)
    assert [one.text for one in passages] == [one.text for one in expected]
    assert [one.score for one in passages] == pytest.approx([one.score for one in expected], abs=1e-5)


def test_texts_are_refused_once_something_was_written(shelf, put):
    """What was found in an older matrix may be gone: the caller is told to search here."""
    put(shelf, "a.md", "The cat sat.")
    matrix = shelf.matrix()
    put(shelf, "b.md", "The dog ran.")
    found = [(point, 0.5) for point in matrix.ids]
    assert shelf.passages(found, matrix.seq) is None
    assert shelf.passages([("0" * 8 + "-0000-0000-0000-" + "0" * 12, 0.5)], shelf.seq) is None


def test_a_question_without_direction_is_refused():
    """No passages, zeros and NaN are errors of whoever asks."""
    assert np.linalg.norm(unit(np.array([3.0, 4.0]), 1)) == pytest.approx(1.0)
    for vector, k, code in (([1.0], 0, "RAG001"), ([0.0], 1, "DOC020"), ([np.nan], 1, "DOC020")):
        with pytest.raises(UserError) as caught:
            unit(np.array(vector), k)
        assert caught.value.code == code
