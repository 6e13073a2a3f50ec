"""Distributions of what a defence judges clients by, benign against malicious.

Scores come from the `scores` of rounds.jsonl (reconstruction errors, Krum scores,
trust, penalties, ...), of all clients in all rounds of the runs of a cell.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from fedjax_sim.reports.figures import svg
from fedjax_sim.reports.render import column_names
from fedjax_sim.reports.tables import Table
from fedjax_sim.runs.files import Rows

_PANELS = 4  # in a line
_BINS = 40
_LABELS = 3  # as many values, or fewer, are flags or labels and no score
_LOOK = {False: ("benign", "tab:blue"), True: ("malicious", "tab:red")}


class Scores(NamedTuple):
    """The values of one score."""

    values: np.ndarray  # f64 [k]; NaN = undefined, as an infinite one is recorded
    malicious: np.ndarray  # bool [k]
    rounds: np.ndarray | None = None  # i64 [k], in which round of its run


def read_scores(folders: Sequence[Path]) -> dict[str, Scores]:
    """Reads the scores of runs, by name.

    Flags, labels, and values that all clients of a round share are left out.
    """
    found: dict[str, tuple[list[float], list[bool], list[int]]] = {}
    shared: dict[str, bool] = {}
    for folder in folders:
        for row in Rows(folder / "rounds.jsonl").read():
            attacking = np.isin(row["clients"], row["malicious"]).tolist()
            for name, values in row["scores"].items():
                if any(isinstance(value, bool) for value in values):
                    continue
                numbers = [np.nan if value is None else value for value in values]
                kept = found.setdefault(name, ([], [], []))
                kept[0].extend(numbers)
                kept[1].extend(attacking)
                kept[2].extend([row["round"]] * len(attacking))
                alike = len(set(values)) <= 1
                shared[name] = shared.get(name, True) and alike
    scores = {}
    for name, (values, attacking, when) in found.items():
        array = np.array(values, float)
        distinct = np.unique(array[np.isfinite(array)])
        if not shared[name] and len(distinct) > _LABELS:
            scores[name] = Scores(array, np.array(attacking), np.array(when))
    return scores


def distributions(table: Table, results: Path) -> bytes | None:
    """Draws a panel for each cell of a table and each score.

    Args:
      table: its cells say which runs.
      results: folder of the run directories.

    Returns:
      SVG; None if the runs have no scores.
    """
    names = dict(zip(table.columns, column_names(table), strict=True))
    panels = [
        (" / ".join(row) + f"\n{names[column]}", score, values)
        for (row, column), cell in table.cells.items()
        for score, values in read_scores(
            [results / run["run"] for run in cell.runs]
        ).items()
    ]
    if not panels:
        return None
    width = min(_PANELS, len(panels))
    lines = -(-len(panels) // width)
    figure = Figure(figsize=(2.9 * width, 2.5 * lines + 0.4), layout="constrained")
    axes = figure.subplots(lines, width, squeeze=False).ravel()
    for axis, (cell, score, values) in zip(axes, panels, strict=False):
        _panel(axis, values)
        undefined = np.isnan(values.values).mean()
        note = f", {100 * undefined:.0f} % undefined" if undefined else ""
        axis.set_title(cell, fontsize=8)
        axis.set_xlabel(f"{score.replace('_', ' ')}{note}", fontsize=8)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    handles: dict[str, Artist] = {}
    for axis in axes:
        drawn, names = axis.get_legend_handles_labels()
        handles |= dict(zip(names, drawn, strict=True))
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside upper left",
        ncols=2,
        fontsize=8,
    )
    return svg(figure)


def _panel(axis: Axes, scores: Scores) -> None:
    """Two histograms over the same bins, each of area 1 in the drawn unit."""
    known = np.isfinite(scores.values)
    values, malicious = scores.values[known], scores.malicious[known]
    low, high = values.min(), values.max()
    logarithmic = low > 0 and high > 100 * low
    space = np.geomspace if logarithmic else np.linspace
    edges = space(low, high, _BINS + 1)
    for kind, (name, color) in _LOOK.items():
        own = values[malicious == kind]
        if len(own):
            weights = np.full(len(own), 1 / len(own))
            axis.hist(
                own, edges.tolist(), weights=weights, label=name, color=color, alpha=0.5
            )
    if logarithmic:
        axis.set_xscale("log")
        # Matplotlib's own labels are TeX, which is not parsed here.
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_ylabel("share", fontsize=8)
    axis.tick_params(labelsize=7)
