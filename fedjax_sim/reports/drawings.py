"""The figures that a layout, or `--figure`, asks for: any metric against anything.

A layout's `figures` are a list of

    {"kind": "setting", "x": FIELD, "values": [METRIC, ...]}
        each metric against a field of the rows or columns; a line for each other field
    {"kind": "rounds", "values": [METRIC, ...]}
        each recorded metric over the rounds; a line for each cell
    {"kind": "beside", "values": [METRIC, ...]}
        the same the other way round: each cell in a panel; a line for each metric

with bands of one standard deviation over the runs of a cell (seeds) to both sides.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from duckdb import DuckDBPyConnection
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedjax_sim.core.errors import InputError, did_you_mean
from fedjax_sim.reports import store
from fedjax_sim.reports.figures import look, place_legend, svg
from fedjax_sim.reports.render import label
from fedjax_sim.reports.tables import Cell, Labels, Table

# {panel: {line: [(x, mean, standard deviation)]}}
Curves = dict[str, dict[str, list[Any]]]


def parse_figure(text: str) -> dict[str, Any]:
    """Reads `METRIC[,METRIC]@FIELD` or `METRIC[,METRIC]@round` of the command line.

    Raises:
      InputError: something else.
    """
    metrics, at, place = text.partition("@")
    if not (metrics and at and place):
        raise InputError(f"--figure={text}: METRIC[,METRIC]@FIELD or @round is needed")
    values = metrics.split(",")
    if place == "round":
        return {"kind": "rounds", "values": values}
    return {"kind": "setting", "x": place, "values": values}


def drawing(
    wanted: Mapping[str, Any], table: Table, database: DuckDBPyConnection
) -> bytes | None:
    """Draws one figure of a table.

    Args:
      wanted: see the module's docstring.
      table: its cells say which runs.
      database: of the store.

    Returns:
      SVG; None if nothing of it is measured.

    Raises:
      InputError: a field that the table does not have, a metric nobody recorded.
    """
    if wanted["kind"] in ("rounds", "beside"):
        curves = _over_rounds(wanted["values"], table, database)
        if wanted["kind"] == "beside":
            curves = _turned(curves)
        return _panels(curves, "round", None)
    return _against(wanted["x"], wanted["values"], table)


def _against(field: str, values: Sequence[str], table: Table) -> bytes | None:
    fields = (*table.row_fields, *table.column_fields)
    if field not in fields:
        raise InputError(
            f"--figure=...@{field}: no row or column; {did_you_mean(field, fields)}"
        )
    at = fields.index(field)
    lines: dict[Labels, dict[str, Cell]] = {}
    for (row, column), cell in table.cells.items():
        place = (*row, *column)
        rest = place[:at] + place[at + 1 :]
        lines.setdefault(rest, {})[place[at]] = cell
    shown = _names(fields[:at] + fields[at + 1 :], lines)
    ticks = list(dict.fromkeys(x for line in lines.values() for x in line))
    numeric = all(_number(x) is not None for x in ticks)
    if numeric:
        ticks.sort(key=lambda x: _number(x) or 0.0)
    curves: Curves = {}
    for name in values:
        for rest, cells in lines.items():
            points = []
            for i, x in enumerate(ticks):
                numbers = _numbers(cells[x], name) if x in cells else []
                if numbers:
                    points.append((i, np.mean(numbers), np.std(numbers)))
            if points:
                curves.setdefault(label(name), {})[shown[rest]] = points
    return _panels(curves, label(field), ticks)


def _over_rounds(
    values: Sequence[str], table: Table, database: DuckDBPyConnection
) -> Curves:
    """The mean of each metric over the runs of each cell, where it was recorded."""
    columns, rounds = store.query(database, "SELECT * FROM rounds ORDER BY run, round")
    known = [name for name in values if name in columns]
    if not known:
        hint = did_you_mean(values[0], columns)
        raise InputError(f"--figure={values[0]}@round: nobody recorded that; {hint}")
    by_run: dict[str, list[store.Row]] = {}
    for row in rounds:
        by_run.setdefault(row["run"], []).append(row)
    fields = (*table.row_fields, *table.column_fields)
    places = {(*row, *column): cell for (row, column), cell in table.cells.items()}
    shown = _names(fields, places)
    curves: Curves = {}
    for name in known:
        for place, cell in places.items():
            found: dict[int, list[float]] = {}
            for run in cell.runs:
                for row in by_run.get(run["run"], []):
                    if row[name] is not None:
                        found.setdefault(row["round"], []).append(row[name])
            if len(found) > 1:
                curves.setdefault(label(name), {})[shown[place]] = [
                    (x, np.mean(found[x]), np.std(found[x])) for x in sorted(found)
                ]
    return curves


def _turned(curves: Curves) -> Curves:
    """Lines as panels and panels as lines."""
    found: Curves = {}
    for panel, lines in curves.items():
        for name, points in lines.items():
            found.setdefault(name, {})[panel] = points
    return found


def _panels(curves: Curves, across: str, ticks: Sequence[str] | None) -> bytes | None:
    """A panel for each key; the lines have the same look in all of them."""
    if not curves:
        return None
    names = list(dict.fromkeys(name for lines in curves.values() for name in lines))
    figure = Figure(
        figsize=(8.5, 2.6 * len(curves) + 0.25 * -(-len(names) // 4) + 0.4),
        layout="constrained",
    )
    axes = figure.subplots(len(curves), 1, squeeze=False, sharex=True)[:, 0]
    handles: dict[str, Artist] = {}
    for axis, (panel, lines) in zip(axes, curves.items(), strict=True):
        for name, points in lines.items():
            handles[name] = _line(axis, points, names.index(name), ticks is not None)
        axis.set_ylabel(panel)
        axis.grid(alpha=0.3)
    if ticks is not None:
        axes[-1].set_xticks(range(len(ticks)), ticks)
    axes[-1].set_xlabel(across)
    place_legend(figure, list(handles.values()), list(handles))
    return svg(figure)


def _line(
    axis: Axes, points: Sequence[tuple[float, Any, Any]], index: int, marked: bool
) -> Artist:
    x, center, spread = (np.array(part, float) for part in zip(*points, strict=True))
    style = look(index)
    (line,) = axis.plot(x, center, marker="o" if marked else None, **style)
    band = (center - spread, center + spread)
    axis.fill_between(x, *band, color=style["color"], alpha=0.15, linewidth=0)
    return line


def _names(fields: Sequence[str], places: Mapping[Labels, Any]) -> dict[Labels, str]:
    """What tells the places apart, without the fields that all of them share."""
    varied = [i for i in range(len(fields)) if len({place[i] for place in places}) > 1]
    return {
        place: " / ".join(
            place[i] if _number(place[i]) is None else f"{label(fields[i])} {place[i]}"
            for i in varied
        )
        or " / ".join(place)
        or "all"
        for place in places
    }


def _numbers(cell: Cell, name: str) -> list[float]:
    key = name.replace(".", "_")
    if cell.runs and key not in cell.runs[0]:
        hint = did_you_mean(key, cell.runs[0])
        raise InputError(f"--figure={name}@...: the runs have no such column; {hint}")
    return [run[key] for run in cell.runs if run[key] is not None]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
