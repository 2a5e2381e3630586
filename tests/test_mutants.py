"""What counts as catching a planted fault."""

from pathlib import Path

import pytest

from tests import mutants


@pytest.fixture
def tree(tmp_path) -> Path:
    """A tree whose tests and storms do what a test writes into it."""
    (tmp_path / "tests").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def test_it(): assert False", "FAILED tests/test_it.py::test_it"),
        ("def test_it(): pass", ""),
    ],
    ids=["fails", "passes"],
)
def test_a_mutant_is_caught_by_a_test_that_fails(tree, source, said):
    """The first test that fails is named."""
    (tree / "tests/test_it.py").write_text(source)
    assert mutants.failure(tree, "tests/test_it.py") == said


@pytest.mark.parametrize(
    "source",
    [
        "import nothing_of_this_name",
        "def test_it(nothing): pass",
        "",
        "import os\n\ndef test_it(): os._exit(1)",
    ],
    ids=["is not collected", "lacks a fixture", "has no test", "ends Python"],
)
def test_what_ends_otherwise_catches_no_mutant(tree, source):
    """A test file that cannot be run says nothing of the fault."""
    (tree / "tests/test_it.py").write_text(source)
    with pytest.raises(mutants.Unclear, match=r"tests/test_it.py: exit [1245]"):
        mutants.failure(tree, "tests/test_it.py")


def test_storms_that_cannot_start_catch_no_mutant(tree):
    """A seed that fails is named; an error of Python is no seed."""
    (tree / "tests/seeds.py").write_text("print('seed 3: broken')\nraise SystemExit(1)")
    assert mutants.seed_that_fails(tree, 4) == "seed 3: broken"
    (tree / "tests/seeds.py").write_text("import nothing_of_this_name")
    with pytest.raises(mutants.Unclear, match=r"seeds 0 to 3: exit 1: .*nothing_of_this_name"):
        mutants.seed_that_fails(tree, 4)


def test_a_mutant_that_does_not_end_hangs(monkeypatch):
    """What is cut off after its time is told as such, and not as caught."""
    monkeypatch.setattr(mutants, "LIMIT_S", 0.05)
    verdict = mutants.tried(4, ())
    assert (verdict.mark, verdict.by) == ("hangs", "tests/seeds.py 0 4 --workers 1")
