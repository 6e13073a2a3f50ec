"""The command line of reports: run directories in; rows, tables and figures out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from duckdb import DuckDBPyConnection

from fedjax_sim.commands.flags import run_command
from fedjax_sim.commands.text_table import text_table
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.paths import local_path
from fedjax_sim.papers import layouts, load_layout
from fedjax_sim.reports import figures, render, store
from fedjax_sim.reports.danger_zones import danger_zones
from fedjax_sim.reports.scores import distributions
from fedjax_sim.reports.tables import (
    Table,
    grid,
    published_table,
)
from fedjax_sim.reports.triggered_images import triggered_images
from fedjax_sim.reports.update_plane import update_geometry

USAGE = (
    "usage: report.py --results=DIR [--where=SQL] [--sql=SQL] "
    "[--layout=NAME | --rows=KEYS --columns=KEYS --values=METRICS] [--out=DIR]"
)


def make_flags() -> flags.FlagValues:
    """The flags of `launch/report.py`."""
    values = flags.FlagValues()
    for name, text in {
        "results": "Folder of the run directories (at any depth).",
        "where": "SQL condition on the columns of `runs`: only these runs.",
        "sql": "Prints the answer to a query over the tables `runs` and `rounds`.",
        "layout": f"A paper's table: {', '.join(layouts())}.",
        "out": "Folder for the report and the tables as parquet.",
    }.items():
        flags.DEFINE_string(name, None, text, flag_values=values)
    for name, text in {
        "rows": "Config keys of the rows of a table: defense.name",
        "columns": "Config keys of its columns: attack.dpr,partition.name",
        "values": "Metrics in its cells.",
        "ignore": "Keys on which a layout's cells need not agree with the runs.",
    }.items():
        default = ["mta", "asr"] if name == "values" else []
        flags.DEFINE_list(name, default, text, flag_values=values)
    flags.DEFINE_multi_string(
        "cells", [], "FIELD=LABEL[,LABEL]: only these of a layout.", flag_values=values
    )
    flags.DEFINE_float(
        "mta",
        80.0,
        "Danger zones count where the MTA in percent is at least this.",
        lower_bound=0.0,
        upper_bound=100.0,
        flag_values=values,
    )
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    return run_command(
        _report, argv, make_flags(), USAGE, ["results"], configurable=False
    )


def _report(values: flags.FlagValues, _: Mapping[str, Any]) -> int:
    layout = load_layout(values.layout) if values.layout else None
    if layout and (values.rows or values.columns):
        raise InputError("--layout has its own rows and columns: give one or the other")
    if (values.ignore or values.cells) and not layout:
        raise InputError("--ignore and --cells belong to a --layout")
    out = None if values.out is None else local_path("--out", values.out)
    results = local_path("--results", values.results)
    database = store.gather(results, out)
    if values.sql:
        _show(*store.query(database, values.sql))
        return 0
    runs = store.select(database, values.where)
    if not runs:
        raise InputError(f"--where={values.where}: no run is like that")
    table = None
    if layout:
        options = {"cells": values.cells, "ignore": values.ignore}
        table = published_table(layout, runs, **options)
    elif values.rows or values.columns:
        table = grid(
            runs, rows=values.rows, columns=values.columns, values=values.values
        )
    written: list[Path] = []
    if out is not None:
        name = values.layout or "report"
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out={out}: {error.strerror}") from None
        written = store.write_parquet(database, out)
        if table is not None:
            drawn = draw(table, database, results, values.mta)
            written += write(table, drawn, out, name)
    # After the files: who reads only the first lines has them nevertheless.
    if table is None:
        keys = [*store.varying(runs), "status", "mta", "asr", "run"]
        _show(keys, runs)
    else:
        print(render.markdown(table, {}))
    if written:
        print("written:", *map(str, written))
    return 0


def draw(
    table: Table, database: DuckDBPyConnection, results: Path, least_mta: float
) -> dict[str, bytes]:
    """Draws what the runs of a table have to show; SVG by name."""
    runs = {run["run"]: run for cell in table.cells.values() for run in cell.runs}
    _, rounds = store.query(database, "SELECT * FROM rounds ORDER BY run, round")
    drawn = {
        "danger_zones": danger_zones(list(runs.values()), least_mta),
        "bars": figures.bars(table),
        "over_rounds": figures.over_rounds(table, rounds),
        "scores": distributions(table, results),
        "geometry": update_geometry(table, results),
        "triggers": triggered_images(list(runs.values()), results),
    }
    return {name: svg for name, svg in drawn.items() if svg is not None}


def write(table: Table, drawn: Mapping[str, bytes], out: Path, name: str) -> list[Path]:
    """Writes NAME.md, NAME.tex, NAME.html and the figures; returns their paths."""
    drawn = {f"{name}_{k}": svg for k, svg in drawn.items()}
    contents = {
        f"{name}.md": render.markdown(table, drawn),
        f"{name}.tex": render.latex(table),
        f"{name}.html": render.page(table, drawn),
    }
    paths = []
    for file, text in contents.items():
        (out / file).write_text(text)
        paths.append(out / file)
    for file, svg in drawn.items():
        (out / "figures").mkdir(exist_ok=True)
        paths.append(out / "figures" / f"{file}.svg")
        paths[-1].write_bytes(svg)
    return paths


def _show(columns: Sequence[str], rows: Sequence[store.Row]) -> None:
    print(text_table(columns, rows))
    print(f"{len(rows)} row{'s' * (len(rows) != 1)}")
