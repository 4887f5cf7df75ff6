"""The notebooks run from top to bottom, and are committed without what they printed."""

from pathlib import Path

import nbformat
import pytest
import yaml
from children import DIGITS, in_child
from nbclient import NotebookClient

from kindred.commands import sweep

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Runs a notebook in an empty folder that looks like the repository's root; what its cells printed, and its pictures."""
    (tmp_path / "configs").symlink_to(NOTEBOOKS.parent / "configs")

    def execute(name, **environment):
        for key, value in environment.items():
            monkeypatch.setenv(key, str(value))
        notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
        NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(tmp_path)}}).execute()
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        printed = "".join(output.text for output in outputs if output.output_type == "stream")
        return printed, sum("image/png" in output.get("data", {}) for output in outputs)

    return execute


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


@pytest.mark.slow
def test_first_run(execute, tmp_path):
    printed, pictures = execute("01_first_run.ipynb", EPOCHS=1)
    assert "tau 0.2 batch 128" in printed
    assert pictures == 3
    assert (tmp_path / "logs" / "latest" / "summary.json").exists()


@pytest.mark.slow
def test_temperature(execute, tmp_path):
    """On a sweep of two temperatures; its own takes most of an hour."""
    text = {
        "method": "grid",
        "metric": {"name": "val/knn_top1", "goal": "maximize"},
        "parameters": {"model.temperature": {"values": [0.05, 1.0]}},
        "command": ["python", "-m", "kindred", "train", *DIGITS, "${args_no_hyphens}"],
    }
    path, directory = tmp_path / "pair.yaml", tmp_path / "pair"
    path.write_text(yaml.safe_dump(text))
    assert in_child(lambda: sweep.main([str(path), "--directory", str(directory), "--jobs", "2"]), 250) == 0
    printed, pictures = execute("02_temperature.ipynb", SWEEP=directory)
    assert "2 runs, contrastive at tau [0.05, 1.0]" in printed
    assert printed.count("n = 1") == 2
    assert pictures == 3
