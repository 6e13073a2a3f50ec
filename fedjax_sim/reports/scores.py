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

from fedjax_sim.core.progress import note
from fedjax_sim.reports.figures import svg
from fedjax_sim.reports.palette import COLORS
from fedjax_sim.reports.render import column_names
from fedjax_sim.reports.tables import Labels, Table
from fedjax_sim.runs.files import Rows

_PANELS = 4  # in a line
_BINS = 40
MOST_PANELS = 120  # of a page, where one is chosen
_DRAWN = 24  # of a figure, where all are side by side
_LABELS = 3  # as many values, or fewer, are flags or labels and no score
_LOOK = {False: ("benign", COLORS[0]), True: ("malicious", COLORS[6])}


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


class CellScores(NamedTuple):
    """A score of the runs of a cell."""

    row: Labels
    column: Labels
    score: str
    values: Scores


def scores_of(table: Table, results: Path, most: int = MOST_PANELS) -> list[CellScores]:
    """Reads the scores of the cells of a table, at most so many of them.

    Args:
      table: its cells say which runs.
      results: folder of the run directories.
      most: where there are more, those of the first cells are read.
    """
    found: list[CellScores] = []
    for (row, column), cell in table.cells.items():
        folders = [results / run["run"] for run in cell.runs]
        for score, values in read_scores(folders).items():
            if len(found) == most:
                note(f"more than {most} pairs of cell and score: the first are shown")
                return found
            found.append(CellScores(row, column, score, values))
    return found


def distributions(table: Table, found: Sequence[CellScores]) -> bytes | None:
    """Draws a panel for each cell of a table and each score, the first 24.

    Args:
      table: of the cells.
      found: of `scores_of`.

    Returns:
      SVG; None if the runs have no scores.
    """
    if not found:
        return None
    found = found[:_DRAWN]
    names = dict(zip(table.columns, column_names(table), strict=True))
    panels = [
        (" / ".join(one.row) + f"\n{names[one.column]}", one.score, one.values)
        for one in found
    ]
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


def bins(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Edges f64 [k] of a histogram of finite values, and whether they are geometric."""
    low, high = values.min(), values.max()
    logarithmic = low > 0 and high > 100 * low
    space = np.geomspace if logarithmic else np.linspace
    return space(low, high, _BINS + 1), bool(logarithmic)


def _panel(axis: Axes, scores: Scores) -> None:
    """Two histograms over the same bins, each of area 1 in the drawn unit."""
    known = np.isfinite(scores.values)
    values, malicious = scores.values[known], scores.malicious[known]
    edges, logarithmic = bins(values)
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
