"""The notebook runs from its first cell to its last, in a process of its own."""

import json
import os

import pytest

from tests import runs

nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel: pip install -e '.[test]'")
pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel: pip install -e '.[test]'")
FILE = runs.ROOT / "notebooks" / "rooms.ipynb"


def test_it_is_kept_without_outputs():
    cells = json.loads(FILE.read_text())["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


def test_it_trains_and_predicts(tmp_path, monkeypatch):
    import nbformat

    monkeypatch.setenv("PYTHONPATH", f"{runs.ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("XLA_FLAGS", runs.quickly_compiled(os.environ)["XLA_FLAGS"])
    notebook = nbformat.read(FILE, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()) if "text" in output
    )
    for words in ("semseg/mIoU", "Delta_m", "student of sak", "experts stem, scene, regions, geometry", "level 4"):
        assert words in printed, words
    pictures = [
        o["data"] for cell in notebook.cells for o in cell.get("outputs", ()) if "image/png" in o.get("data", {})
    ]
    assert len(pictures) == 1
    assert json.loads((tmp_path / "runs/notebook/results.json").read_text())["steps"] == 8
