"""Figures of a table: rates over rounds with seed bands, and bars of final rates."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from fedjax_sim.reports.palette import COLORS, DASHES, Look, looks
from fedjax_sim.reports.render import column_names, label
from fedjax_sim.reports.store import Row
from fedjax_sim.reports.tables import Labels, Table

matplotlib.rcParams["svg.hashsalt"] = "fedjax_sim"  # the same file for the same data
matplotlib.rcParams["text.parse_math"] = False  # names of runs are text, never TeX
_PANELS = 4  # side by side: what a page shows without scaling
_ATTACK_RATES = ("asr", "asr_all", "asr_any_source")


def look(index: int) -> dict[str, Any]:
    """Colour and dash of the index-th line; 40 of them differ."""
    return _drawn(Look(index % len(COLORS), index // len(COLORS) % len(DASHES)))


def row_looks(table: Table) -> list[dict[str, Any]]:
    """Colour and dash of each row, the same in every figure of the table."""
    return [_drawn(one) for one in looks(table.rows, table.row_fields)]


def _drawn(one: Look) -> dict[str, Any]:
    return {"color": COLORS[one.color], "linestyle": (0, DASHES[one.dash])}


def svg(figure: Figure) -> bytes:
    """A figure as SVG, the same bytes for the same data."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return buffer.getvalue()


def place_legend(figure: Figure, handles, names) -> None:
    """To the upper left, where a small screen begins."""
    figure.legend(
        handles,
        names,
        loc="outside upper left",
        fontsize=8,
        ncols=min(4, len(names), max(1, 100 // max(map(len, names), default=1))),
    )


def over_rounds(table: Table, rounds: Sequence[Row]) -> bytes | None:
    """MTA and ASR over rounds: a panel a column of the table, a line a row.

    Which rate of success is the first of the table's values that is one. The band is
    one standard deviation over the runs of a cell to both sides.

    Returns:
      SVG; None if no run was evaluated more than once.
    """
    by_run: dict[str, list[Row]] = {}
    for row in rounds:
        by_run.setdefault(row["run"], []).append(row)
    shown = [value for value in table.values if value in _ATTACK_RATES]
    rates = ("mta", shown[0] if shown else "asr")
    curves = {}
    for place, cell in table.cells.items():
        own = [by_run.get(run["run"], []) for run in cell.runs]
        if any(len(rows) > 1 for rows in own):
            curves[place] = own
    columns = [c for c in table.columns if any(place[1] == c for place in curves)]
    if not columns:
        return None
    width = min(_PANELS, len(columns))
    lines = -(-len(columns) // width)
    size = (2.9 * width + 0.6, 4.6 * lines + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(2 * lines, width, squeeze=False, sharey=True)
    names = dict(zip(table.columns, column_names(table), strict=True))
    for j, column in enumerate(columns):
        line, across = divmod(j, width)
        for i, rate in enumerate(rates):
            axis = axes[2 * line + i, across]
            for cells, style in zip(table.rows, row_looks(table), strict=True):
                _curve(axis, curves.get((cells, column), []), rate, cells, style)
            axis.set_ylim(-3, 103)
            axis.grid(alpha=0.3)
            if across == 0:
                axis.set_ylabel(f"{label(rate)} %")
        axes[2 * line, across].set_title(names[column], fontsize=9)
        axes[2 * line, across].tick_params(labelbottom=False)
        axes[2 * line + 1, across].set_xlabel("round")
    for last in axes[-2:]:
        for axis in last[len(columns) - width * (lines - 1) :]:
            axis.set_axis_off()
    handles: dict[str, Artist] = {}
    for axis in axes.flat:
        drawn, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, drawn, strict=True))
    place_legend(figure, handles.values(), handles.keys())
    return svg(figure)


def _curve(
    axis, runs: list[list[Row]], rate: str, row: Labels, style: dict[str, Any]
) -> None:
    by_round: dict[int, list[float]] = {}
    for rows in runs:
        for r in rows:
            if r[rate] is not None:
                by_round.setdefault(r["round"], []).append(r[rate])
    if not by_round:
        return
    x = np.array(sorted(by_round))
    center = np.array([np.mean(by_round[i]) for i in x])
    spread = np.array([np.std(by_round[i]) for i in x])
    axis.plot(x, center, label=" / ".join(row), **style)
    axis.fill_between(
        x,
        center - spread,
        center + spread,
        color=style["color"],
        alpha=0.15,
        linewidth=0,
    )


def bars(table: Table) -> bytes | None:
    """Each value in a panel: groups of columns, a bar a row; a dot = published.

    Returns:
      SVG; None if nothing is measured.
    """
    values = [v for cell in table.cells.values() for v in cell.values.values()]
    if all(value.mean is None for value in values):
        return None
    width = 0.8 / len(table.rows)
    size = (max(6.0, 0.16 * len(table.rows) * len(table.columns) + 3), 2.4)
    figure = Figure(
        figsize=(size[0], size[1] * len(table.values)), layout="constrained"
    )
    axes = figure.subplots(len(table.values), 1, squeeze=False, sharex=True)[:, 0]
    for axis, name in zip(axes, table.values, strict=True):
        for k, (row, style) in enumerate(
            zip(table.rows, row_looks(table), strict=True)
        ):
            found = [
                (j, cell.values[name])
                for j, column in enumerate(table.columns)
                if (cell := table.cells.get((row, column))) is not None
            ]
            place = {j: j + (k + 0.5) * width - 0.4 for j, _ in found}
            drawn = [(place[j], v) for j, v in found if v.mean is not None]
            axis.bar(
                [x for x, _ in drawn],
                [v.mean for _, v in drawn],
                width,
                # No rate, loss or time is below zero, nor is a bar of it.
                yerr=[
                    [min(v.spread or 0.0, abs(v.mean or 0.0)) for _, v in drawn],
                    [v.spread or 0.0 for _, v in drawn],
                ],
                error_kw={"linewidth": 0.8},
                # A row of which nothing is drawn would be a colour of its own.
                label=" / ".join(row) if drawn else "_nothing",
                color=style["color"],
            )
            paper = [
                (place[j], v.published) for j, v in found if v.published is not None
            ]
            if drawn and paper:
                axis.plot(*zip(*paper, strict=True), "k.", markersize=4)
        axis.set_ylabel(label(name))
        axis.grid(axis="y", alpha=0.3)
    names = column_names(table)
    rotation = 30 if len(names) > 4 else 0
    axes[-1].set_xticks(range(len(names)), names, fontsize=8, rotation=rotation)
    if rotation:  # a label ends at its group
        for text in axes[-1].get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    handles, names = axes[0].get_legend_handles_labels()
    place_legend(figure, handles, names)
    return svg(figure)
