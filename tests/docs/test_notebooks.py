"""The notebooks of the documentation run, and show what they say."""

import json

import pytest
from helpers import ROOT

FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
# What each of them has to show.
SHOWN = {
    "backdoor.ipynb": {"image/png": 3},
    "own_defense.ipynb": {"image/svg+xml": 1, "text/markdown": 1},
}


def test_they_are_all_known():
    assert set(NOTEBOOKS) == set(SHOWN)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_they_hold_no_outputs(name):
    """A build of the site runs them: what they show is what the code does now."""
    cells = json.loads((FOLDER / name).read_text())["cells"]
    for cell in cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.slow  # a minute each; needs the extra `docs`
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_they_run(name, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(FOLDER / name, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", [])]
    kinds = [kind for one in outputs for kind in one.get("data", {})]
    for kind, count in SHOWN[name].items():
        assert kinds.count(kind) == count
    text = json.dumps(outputs)
    if name == "own_defense.ipynb":
        assert "careless: " in text and "weight 0" in text
        assert all(rule in text for rule in ("fedavg", "median", "norm_filter"))
