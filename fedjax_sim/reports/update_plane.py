"""Update geometry: the clients of a round in a plane, with clusters and true labels."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedjax_sim.reports.figures import svg
from fedjax_sim.reports.render import column_names
from fedjax_sim.reports.tables import Table
from fedjax_sim.runs.files import read_json

_PANELS = 3  # in a line
_COLORS = {False: ("benign", "tab:blue"), True: ("malicious", "tab:red")}
_MARKERS = {0: "o", 1: "s", -1: "o"}


def update_geometry(table: Table, results: Path) -> bytes | None:
    """Draws the rounds that `launch/geometry.py` has projected.

    Colour: who attacks. Shape: the two Ward clusters. Crossed out: excluded.

    Args:
      table: its cells say which runs.
      results: folder of the run directories.

    Returns:
      SVG; None if no round of these runs was projected.
    """
    names = dict(zip(table.columns, column_names(table), strict=True))
    panels = []
    for (row, column), cell in table.cells.items():
        for run in cell.runs:
            name = " / ".join(row) + f"\n{names[column]}"
            paths = (results / run["run"] / "geometry").glob("*.json")
            rounds = [path for path in paths if path.stem.isdecimal()]
            for path in sorted(rounds, key=lambda path: int(path.stem)):
                panels.append((f"{name}\nseed {run['seed']}", read_json(path)))
    if not panels:
        return None
    width = min(_PANELS, len(panels))
    lines = -(-len(panels) // width)
    figure = Figure(figsize=(3.6 * width, 3.4 * lines + 0.6), layout="constrained")
    axes = figure.subplots(lines, width, squeeze=False).ravel()
    for axis, (name, found) in zip(axes, panels, strict=False):
        _scatter(axis, found)
        axis.set_title(f"{name}, round {found['round']}", fontsize=8)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for name, color in _COLORS.values():
        axes[0].plot([], [], "o", color=color, label=name)
    for cluster in (0, 1):
        marker = _MARKERS[cluster]
        axes[0].plot([], [], marker, color="0.5", label=f"cluster {cluster}")
    axes[0].plot([], [], "kx", label="excluded")
    figure.legend(loc="outside upper left", ncols=5, fontsize=8)
    return svg(figure)


def _scatter(axis: Axes, found: dict[str, Any]) -> None:
    for point in found["points"]:
        place = point["x"], point["y"]
        color = _COLORS[point["malicious"]][1]
        marker = _MARKERS[point["cluster"]]
        axis.plot(*place, marker, color=color, markersize=9, alpha=0.6)
        if point["excluded"]:
            axis.plot(*place, "kx", markersize=6)
        axis.annotate(
            str(point["client"]),
            place,
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=6,
        )
    first, second = (f"({100 * share:.0f} %)" for share in found["explained"])
    axis.set_xlabel(f"component 1 {first}", fontsize=8)
    axis.set_ylabel(f"component 2 {second}", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)
