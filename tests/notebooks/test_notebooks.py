"""Every notebook as it lies in the tree; tests/jobs/test_up_down.py runs them."""

import re
from pathlib import Path

import nbformat
import pytest

from tests.shell import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def texts(notebook: nbformat.NotebookNode) -> str:
    """Everything that the cells of a notebook show."""
    shown = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            shown.append(output.get("text", ""))
            shown.extend(str(value) for value in output.get("data", {}).values())
    return "\n".join(shown)


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
