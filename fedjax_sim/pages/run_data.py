"""The runs of a table for a page's scripts: columns of settings, results and curves.

A page of ten thousand runs must open at once, so nothing is said twice (settings and
provenance are numbers of a list), and curves share a budget of points.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from duckdb import DuckDBPyConnection

from fedjax_sim.contracts.config import Config
from fedjax_sim.pages.facts import provenance_of
from fedjax_sim.pages.numbers import short, thinned
from fedjax_sim.papers.cells import format_label
from fedjax_sim.reports import store
from fedjax_sim.reports.matching import SEEDS
from fedjax_sim.reports.render import label
from fedjax_sim.reports.store import Row, varying
from fedjax_sim.reports.tables import Table, column_of, decimals_of

_POINTS = 400_000  # of all curves of a page
_LEAST, _LARGEST = 8, 200  # points of a curve
_RATES = ("mta", "asr")
RUN_PAGE = "page.html"  # in a run's folder
_WHO = ("versions", "python", "platform", "backend", "devices", "git")


def runs_of(table: Table) -> list[Row]:
    """The runs of a table, each once, in the order of its cells."""
    found = {run["run"]: run for cell in table.cells.values() for run in cell.runs}
    return list(found.values())


def settings_of(runs: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """The config keys in which runs differ: {column: values, and which a run has}.

    Where a run's choice of rule has no such key, its value is null.
    """
    found: dict[str, dict[str, Any]] = {}
    for key in varying(list(runs)):
        values: dict[str | None, int] = {}
        places = []
        for run in runs:
            text = None if run[key] is None else format_label(run[key])
            places.append(values.setdefault(text, len(values)))
        found[key] = {"label": label(_dotted(key)), "values": list(values)}
        found[key]["of"] = places
    return found


def _dotted(column: str) -> str:
    """The config key of a store's column, as far as it can be told."""
    sections = [name for name in Config.model_fields if column.startswith(f"{name}_")]
    section = max(sections, key=len, default="")
    return f"{section}.{column.removeprefix(f'{section}_')}" if section else column


def run_columns(
    table: Table, runs: Sequence[Row], provenances: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What is known of each run, a list a column.

    Args:
      table: whose values are shown.
      runs: of the table.
      provenances: of the same runs.
    """
    machines: dict[str, int] = {}
    of = []
    for one in provenances:
        text = json.dumps({key: one[key] for key in _WHO if key in one}, sort_keys=True)
        of.append(machines.setdefault(text, len(machines)))
    errors = {i: run["error"] for i, run in enumerate(runs) if run.get("error")}
    values = {
        name: [_shown(run, name) for run in runs]
        for name in dict.fromkeys((*table.values, *_RATES, "seconds"))
        if name in table.values or any(run.get(name) is not None for run in runs)
    }
    defend = "seconds_defend"
    if all(run.get(defend) is None for run in runs):
        defend = "seconds_rounds"  # of both sides: nobody timed them apart
    return {
        "run": [run["run"] for run in runs],
        "name": [run["name"] for run in runs],
        "status": [run["status"] for run in runs],
        "error": errors,
        "values": values,
        "server": {
            "timed": defend == "seconds_defend",
            "seconds": [short(run.get(defend)) for run in runs],
        },
        "started": [one.get("started", "")[:16] for one in provenances],
        "machine": of,
        "machines": [json.loads(text) for text in machines],
        "seeds": [column_of(key) for key in SEEDS],
    }


def _shown(run: Row, name: str) -> float | None:
    return short(run.get(column_of(name)), 6)


def curves(
    table: Table, runs: Sequence[Row], database: DuckDBPyConnection
) -> dict[str, Any]:
    """The rates of runs over the rounds, at no more rounds than a page can carry.

    Returns:
      {metrics: {name: a list of values for each run}, grids: lists of rounds, of: the
      grid of each run, drawn and recorded: rounds of the longest run}; no metrics if no
      run was evaluated more than once.
    """
    known = store.query(database, "SELECT * FROM rounds LIMIT 0")[0]
    names = [n for n in dict.fromkeys((*_RATES, *table.values)) if n in known]
    wanted = ", ".join(f'"{name}"' for name in names)
    sql = f"SELECT run, round, {wanted} FROM rounds ORDER BY run, round"
    by_run: dict[str, list[Row]] = {}
    for row in store.query(database, sql)[1]:
        by_run.setdefault(row["run"], []).append(row)
    own = [by_run.get(run["run"], []) for run in runs]
    filled = [n for n in names if any(r[n] is not None for rows in own for r in rows)]
    most = max(map(len, own), default=0)
    if most < 2:
        filled = []
    room = _POINTS // max(1, len(runs) * max(1, len(filled)))
    size = max(_LEAST, min(_LARGEST, room))
    grids: dict[tuple[int, ...], int] = {}
    of: list[int] = []
    kept = []
    for rows in own:
        chosen = thinned(range(len(rows)), size)
        kept.append([rows[i] for i in chosen])
        grid = tuple(rows[i]["round"] for i in chosen)
        of.append(grids.setdefault(grid, len(grids)))
    metrics = {}
    for name in filled:
        digits = decimals_of(name)
        metrics[name] = {
            "label": label(name),
            "rate": digits == 1,
            "of": [[_rounded(r[name], digits) for r in rows] for rows in kept],
        }
    drawn = max(map(len, kept), default=0)
    return {
        "metrics": metrics,
        "grids": list(grids),
        "of": of,
        "drawn": drawn,
        "recorded": most,
    }


def _rounded(value: float | None, digits: int) -> float | int | None:
    if value is None:
        return None
    rounded = round(value, digits)
    return int(rounded) if float(rounded).is_integer() else rounded


def pages_of(runs: Sequence[Row], results: Path, out: Path) -> list[str | None]:
    """The address of each run's page as seen from a folder; None: there is none."""
    return [
        quote(os.path.relpath(page, out)) if page.exists() else None
        for page in (results / run["run"] / RUN_PAGE for run in runs)
    ]


def provenances_of(runs: Sequence[Row], results: Path) -> list[dict[str, Any]]:
    """provenance.json of each run; {} where there is none."""
    return [provenance_of(run, results) for run in runs]
