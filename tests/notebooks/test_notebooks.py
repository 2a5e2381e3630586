"""Every notebook, cell by cell against a real lab."""

import importlib.util
import os
import re
from pathlib import Path

import nbformat
import pytest

from tests.shell import ROOT, environment, tierce
from tests.tiny_lab import build_parts, write_file

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def texts(notebook: nbformat.NotebookNode) -> str:
    """Everything that the cells of a notebook show."""
    shown = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            shown.append(output.get("text", ""))
            shown.extend(str(value) for value in output.get("data", {}).values())
    return "\n".join(shown)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A lab that is up, and an environment in which `tierce.connect()` finds it."""
    home = tmp_path_factory.mktemp("home")
    parts = build_parts(tmp_path_factory.mktemp("parts"))
    file = write_file(tmp_path_factory.mktemp("lab"), parts, name="notebook")
    done = tierce(home, "up", str(file))
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(environment(home)):
            patch.delenv(name)
        for name, value in environment(home, PYTHONPATH=str(ROOT)).items():
            patch.setenv(name, value)
        yield
    assert tierce(home, "down").returncode == 0


@pytest.fixture
def execute():
    """The function of notebooks/execute.py."""
    spec = importlib.util.spec_from_file_location("execute", ROOT / "notebooks/execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.execute


@pytest.mark.ray
@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(execute, path):
    """Against a real lab every cell runs, and each cell that shows something in the tree does so now."""
    ran = execute(path)
    kept = nbformat.read(path, as_version=4)
    shows = [bool(cell.get("outputs")) for cell in kept.cells]
    assert [bool(cell.get("outputs")) for cell in ran.cells] == shows
    assert "philosopher@" in texts(ran)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_its_outputs_and_no_machine(path: Path):
    """The outputs are in the tree, in the order of the cells, without errors, times or machine paths."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert [output for cell in code for output in cell.outputs if output.output_type == "error"] == []
    assert [cell.metadata for cell in notebook.cells if cell.metadata] == []
    assert "Citation(" not in texts(notebook)
    assert re.findall(r"/(?:home|root|tmp|work|usr|Users)/\S*", texts(notebook)) == []
