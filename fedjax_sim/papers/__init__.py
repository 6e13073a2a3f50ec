"""The papers: how their experiments are set up, and what they published.

One folder a paper. `protocol.py` is the base that config files fill in; it reads the
text behind the colon of `--config=FILE:TEXT`, so that any cell of the paper's tables
has a name, `small.py` the same in small. `published.json` holds the paper's own values,
`layouts/` its tables and figures and which config makes each cell (`papers.cells`).
"""

import json
from importlib import resources
from typing import Any

from fedjax_sim.core.errors import InputError, did_you_mean


def layouts() -> list[str]:
    """The names of the tables and figures, such as `drop_table3`."""
    return sorted(_layout_files())


def load_layout(name: str) -> dict[str, Any]:
    """Reads a layout, with the published records of its table if there are any.

    Raises:
      InputError: there is none of that name.
    """
    files = _layout_files()
    if name not in files:
        raise InputError(f"--layout={name} does not exist; {did_you_mean(name, files)}")
    folder, path = files[name]
    layout = json.loads(path.read_text())
    published = json.loads((folder / "published.json").read_text())
    has_numbers = "table" in layout
    layout["source"] = published["source"] if has_numbers else ""
    layout["records"] = published["tables"][layout["table"]] if has_numbers else []
    return layout


def _layout_files() -> dict[str, tuple[Any, Any]]:
    """Name of a layout -> (the folder of its paper, its file)."""
    return {
        path.name.removesuffix(".json"): (paper, path)
        for paper in resources.files("fedjax_sim.papers").iterdir()
        if (paper / "layouts").is_dir()
        for path in (paper / "layouts").iterdir()
    }
