"""The order in which the user wrote the runs of a folder.

The folders of runs have names by which they sort by defence, attack and seed; who wrote
a sweep had an order in mind, and reads the report in it.
"""

from collections.abc import Sequence
from pathlib import Path

from fedjax_sim.core.errors import InputError
from fedjax_sim.core.progress import note
from fedjax_sim.runs.files import read_json, write_json

ORDER = "order.json"  # beside the folders of the runs


def record(root: Path, folders: Sequence[str]) -> None:
    """Notes the order of runs, behind those that others have noted there.

    Args:
      root: folder of the run directories.
      folders: of the runs, relative to it, as the user wrote them.
    """
    before = recorded(root)
    now = [*(name for name in before if name not in set(folders)), *folders]
    if now == before:
        return
    try:
        write_json(root / ORDER, {"runs": now})
    except OSError as error:  # the runs do without it
        note(f"{root / ORDER}: {error.strerror}; reports go by the names of the runs")


def recorded(root: Path) -> list[str]:
    """Returns the folders of runs in the order noted; [] if nobody did."""
    path = root / ORDER
    if not path.exists():
        return []
    try:
        runs = read_json(path, "runs")["runs"]
    except InputError as error:
        note(f"{error}; the runs are in the order of their names")
        return []
    return [name for name in runs if isinstance(name, str)]
