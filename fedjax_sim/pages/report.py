"""The page of a report: one HTML file, which opens offline."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from duckdb import DuckDBPyConnection

from fedjax_sim.pages import summary
from fedjax_sim.pages.assets import page, vega
from fedjax_sim.pages.facts import facts
from fedjax_sim.pages.figures_data import scores_data, zones_data
from fedjax_sim.pages.numbers import short
from fedjax_sim.pages.run_data import (
    curves,
    pages_of,
    provenances_of,
    run_columns,
    runs_of,
    settings_of,
)
from fedjax_sim.reports import render
from fedjax_sim.reports.paired import MOST_ROWS, better_sign, standings
from fedjax_sim.reports.palette import looks
from fedjax_sim.reports.scores import CellScores
from fedjax_sim.reports.store import Row
from fedjax_sim.reports.tables import FLAGS, Table, Value, column_of
from fedjax_sim.sweeps.executors import FINISHED

_CHOICES = 60  # of a filter; a setting of more values has none
_KEYS = 6  # named, in which runs differ from a published protocol
_FAILURES = 20  # lines of failed runs; the rest are counted


class Asked(NamedTuple):
    """What the page was made with."""

    command: str  # that makes it again
    held: float  # the ASR in percent up to which a defence holds
    least_mta: float  # of danger zones, percent
    least_asr: float
    out: Path  # where the page is written


class Picture(NamedTuple):
    """A figure that is no chart."""

    title: str
    text: str  # what it shows, for those who do not see it
    svg: bytes


def report_page(
    table: Table,
    database: DuckDBPyConnection,
    results: Path,
    scores: Sequence[CellScores],
    pictures: Sequence[Picture],
    asked: Asked,
) -> str:
    """Returns the page of a table.

    Args:
      table: see `reports.tables`.
      database: of `reports.store.gather`.
      results: folder of the run directories.
      scores: of the table's cells.
      pictures: drawn already.
      asked: what the page was made with.
    """
    runs = runs_of(table)
    provenances = provenances_of(runs, results)
    found = summary.verdicts(table, asked.held)
    colors = looks(table.rows, table.row_fields)
    data = {
        **_table_data(table, runs),
        "looks": [list(look) for look in colors],
        "held": asked.held,
        "settings": settings_of(runs),
        "curves": curves(table, runs, database),
        "runs": {
            **run_columns(table, runs, provenances),
            "pages": pages_of(runs, results, asked.out),
        },
        "scores": scores_data(table, scores),
        "zones": zones_data(runs, asked.least_mta, asked.least_asr),
    }
    return page(
        "report.html",
        table=table,
        title=table.title,
        facts=facts(runs, provenances),
        command=asked.command,
        lead=summary.lead(table, found, asked.held),
        verdicts=[
            {
                "name": " / ".join(table.rows[one.row]),
                "color": colors[one.row].color,
                "held": one.held == one.measured,
                "text": summary.words(table, one, asked.held),
            }
            for one in found
        ],
        apart=_apart(table),
        missing=_missing(table, runs, data, database),
        failures=_failures(runs),
        legend=render.legend(table),
        corner=render.corner(table),
        columns=render.column_names(table),
        metrics=[_metric(name) for name in table.values],
        groups=_groups(table, data["cells"]),
        filters=_filters(table, data["settings"], runs),
        standings=[render.standing_cells(one) for one in standings(table)],
        standings_head=render.STANDINGS_HEAD,
        standings_text=render.ON_STANDINGS,
        notes={
            render.RANKED: table.ranked,
            render.SETTINGS: table.settings,
            "Notes on the published values": table.notes,
        },
        pictures=[_embedded(picture) for picture in pictures],
        data=data,
        vega=vega(),
    )


def _metric(name: str) -> dict[str, Any]:
    kind = "success" if summary.is_success(name) else ""
    kind = "accuracy" if better_sign(name) > 0 else kind
    return {"key": name, "label": render.label(name), "kind": kind}


def _table_data(table: Table, runs: Sequence[Row]) -> dict[str, Any]:
    """The table for scripts; `cells` are in the order of rows, then columns."""
    place = {run["run"]: i for i, run in enumerate(runs)}
    cells = [
        {
            "row": i,
            "column": j,
            "runs": [place[run["run"]] for run in cell.runs],
            "values": [_numbers(cell.values[name]) for name in table.values],
            "apart": [list(map(str, one)) for one in cell.deviations],
        }
        for i, row in enumerate(table.rows)
        for j, column in enumerate(table.columns)
        if (cell := table.cells.get((row, column))) is not None
    ]
    rows = {row: i for i, row in enumerate(table.rows)}
    references = [summary.reference_of(table, row) for row in table.rows]
    decimals = [
        next((c.values[name].decimals for c in table.cells.values()), 1)
        for name in table.values
    ]
    return {
        "rows": [" / ".join(row) for row in table.rows],
        "columns": render.column_names(table),
        "rowFields": _fields(table.row_fields, table.rows),
        "columnFields": _fields(table.column_fields, table.columns),
        "metrics": [
            {**_metric(name), "decimals": digits}
            for name, digits in zip(table.values, decimals, strict=True)
        ],
        "references": [None if r is None else rows[r] for r in references],
        "cells": cells,
    }


def _fields(names: Sequence[str], places: Sequence[tuple[str, ...]]) -> list[Any]:
    return [
        {"label": render.label(name), "of": [place[i] for place in places]}
        for i, name in enumerate(names)
    ]


def _numbers(value: Value) -> list[float | int | None]:
    """Mean, spread, number of runs, published."""
    return [
        short(value.mean, 6),
        short(value.spread),
        value.num_runs,
        short(value.published, 6),
    ]


def _groups(table: Table, cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The lines of the table, those of one first label together where there are more.

    A line is {row, label, cells}; a cell is None, or {index, values: texts and shade}.
    """
    number = {(c["row"], c["column"]): i for i, c in enumerate(cells)}
    scale = {name: _scale(table, name) for name in table.values}
    found: dict[str, list[dict[str, Any]]] = {}
    folds = len(table.row_fields) > 1
    for i, row in enumerate(table.rows):
        line: list[dict[str, Any] | None] = []
        for j, column in enumerate(table.columns):
            index = number.get((i, j))
            if index is None:
                line.append(None)
                continue
            cell = table.cells[row, column]
            shown = [
                _shown(cell.values[name], scale[name], name) for name in table.values
            ]
            line.append({"index": index, "runs": len(cell.runs), "values": shown})
        label = " / ".join(row[1:] if folds else row) or "all"
        key = row[0] if folds else ""
        found.setdefault(key, []).append({"row": i, "label": label, "cells": line})
    return [{"name": name, "lines": lines} for name, lines in found.items()]


def _scale(table: Table, name: str) -> tuple[float, float]:
    """What the palest and the darkest shade of a metric stand for."""
    if better_sign(name) > 0 or summary.is_success(name):
        return 0.0, 100.0
    values = [cell.values[name].mean for cell in table.cells.values()]
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else (0.0, 1.0)


def _shown(value: Value, scale: tuple[float, float], name: str) -> dict[str, Any]:
    low, high = scale
    shade = None
    if value.mean is not None and high > low:
        shade = f"{min(max((value.mean - low) / (high - low), 0), 1):.3f}"
    digits = value.decimals
    return {
        "mean": "-" if value.mean is None else f"{value.mean:.{digits}f}",
        "spread": "" if value.spread is None else f"± {value.spread:.{digits}f}",
        "published": "" if value.published is None else f"{value.published:.2f}",
        "apart": "" if value.difference is None else f"{value.difference:+.{digits}f}",
        "flags": [(letter, FLAGS[letter]) for letter in value.flags],
        "shade": shade,
        "kind": _metric(name)["kind"],
    }


def _filters(
    table: Table, settings: Mapping[str, Any], runs: Sequence[Row]
) -> list[dict[str, Any]]:
    """What a reader may choose by: labels of the table, then other settings.

    `minor` are those that say nothing beside the ones before: options of a rule, where
    its name is there.
    """
    found: list[dict[str, Any]] = []
    for kind, fields, places in (
        ("row", table.row_fields, table.rows),
        ("column", table.column_fields, table.columns),
    ):
        for i, field in enumerate(fields):
            values = list(dict.fromkeys(place[i] for place in places))
            one = {"key": f"{kind}:{i}", "label": render.label(field)}
            found.append({**one, "values": values, "minor": False})
    fields = tuple(column_of(f) for f in (*table.row_fields, *table.column_fields))
    place_of: dict[str, list[str]] = {run["run"]: [] for run in runs}
    for (row, column), cell in table.cells.items():
        for run in cell.runs:
            place_of[run["run"]] += [*row, *column]
    for key, one in settings.items():
        if key in fields or len(one["values"]) > _CHOICES:
            continue
        finer = {run: [*place, ""] for run, place in place_of.items()}
        for run, value in zip(runs, one["of"], strict=True):
            finer[run["run"]][-1] = str(value)
        minor = _distinct(finer) == _distinct(place_of)
        if not minor:
            place_of = finer
        values = ["(none)" if v is None else v for v in one["values"]]
        own = {"key": key, "label": one["label"], "values": values, "minor": minor}
        found.append(own)
    return [one for one in found if len(one["values"]) > 1]


def _distinct(places: Mapping[str, Sequence[str]]) -> int:
    return len(set(map(tuple, places.values())))


def _missing(
    table: Table,
    runs: Sequence[Row],
    data: Mapping[str, Any],
    database: DuckDBPyConnection,
) -> list[str]:
    """What a reader may look for in vain, and why."""
    lines = []
    left = [run for run in runs if run["status"] != FINISHED]
    if left:
        done = dict(
            database.execute(
                "SELECT run, max(round) FROM rounds GROUP BY run"
            ).fetchall()
        )
        counts = ", ".join(
            f"{sum(r['status'] == s for r in left)} {s}"
            for s in dict.fromkeys(r["status"] for r in left)
        )
        lines.append(f"{len(left)} of {len(runs)} runs have not finished: {counts}.")
        if len(left) == 1 and left[0].get("rounds"):
            at = done.get(left[0]["run"], 0)
            lines.append(
                f"It was evaluated last after round {at} of {left[0]['rounds']}."
            )
    empty = [p for p in table.cells if not table.cells[p].runs]
    if empty:
        lines.append(f"{len(empty)} of {len(table.cells)} cells have no run.")
    lines += table.missing or ()
    if not runs:  # nothing else can be there
        return lines
    if not data["curves"]["metrics"]:
        lines.append(
            "No curves: no run was evaluated more than once (config.evaluation.every)."
        )
    if not data["scores"]:
        lines.append(
            "No distributions of scores: the rules of these runs judge clients by "
            "none, or their rounds.jsonl is not there."
        )
    if None in summary.metrics_of(table):
        lines.append(
            "No trade-off: the table needs an accuracy and an attack success rate"
            + (", such as --values=mta,asr." if table.missing is None else ".")
        )
    if len(table.rows) > MOST_ROWS:
        lines.append(f"Who wins is not said of more than {MOST_ROWS} rows.")
    return lines


def _apart(table: Table) -> str:
    """What runs differ in from the protocol of the numbers beside them; "": nothing."""
    keys = list(dict.fromkeys(one.key for one in table.deviations))
    if not keys:
        return ""
    more = "" if len(keys) <= _KEYS else f" and {len(keys) - _KEYS} more"
    first = sorted(
        keys, key=lambda key: not key.startswith(("data.name", "model.name"))
    )
    data = {
        f"{one.here} stands for {one.published}"
        for one in table.deviations
        if one.key == "data.name"
    }
    return (
        "These runs are not those of the published protocol: they differ in "
        f"{', '.join(first[:_KEYS])}{more}{'; ' * bool(data)}"
        f"{', '.join(sorted(data))}."
    )


def _failures(runs: Sequence[Row]) -> list[tuple[str, str]]:
    failed = [(run["run"], run["error"]) for run in runs if run.get("error")]
    more = len(failed) - _FAILURES
    return failed[:_FAILURES] + ([("...", f"{more} more")] if more > 0 else [])


def _embedded(picture: Picture) -> dict[str, str]:
    data = b64encode(picture.svg).decode()
    return {
        "title": picture.title,
        "text": picture.text,
        "source": f"data:image/svg+xml;base64,{data}",
    }
