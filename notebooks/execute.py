"""Run a notebook against the lab that is up, and keep what it shows.

python notebooks/execute.py notebooks/01_first_ask.ipynb
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

CELL_S = 120


def execute(path: Path) -> nbformat.NotebookNode:
    """Return the notebook with the outputs of now, without times; CellExecutionError if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(path.resolve().parent)}}
    settings = {"timeout": CELL_S, "kernel_name": "python3", "record_timing": False}
    NotebookClient(notebook, resources=folder, **settings).execute()
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = tidy(cell.outputs)
    return notebook


def tidy(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Return what a reader wants to see: printed text in one piece, no warnings, HTML alone."""
    kept: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if "text/html" in output.get("data", {}):
            output.data.pop("text/plain", None)
        if kept and output.output_type == kept[-1].output_type == "stream":
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


if __name__ == "__main__":
    for name in sys.argv[1:]:
        nbformat.write(execute(Path(name)), name)
