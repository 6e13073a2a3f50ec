"""The command line of reports: run directories in; rows, tables and figures out."""

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags
from duckdb import DuckDBPyConnection

from fedjax_sim.commands.flags import run_command, written_to
from fedjax_sim.commands.matrix import report_matrix
from fedjax_sim.commands.sweep import check_layout
from fedjax_sim.commands.text_table import text_table
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.paths import local_path
from fedjax_sim.pages.report import Asked, Picture, report_page
from fedjax_sim.papers import layouts, load_layout
from fedjax_sim.reports import figures, render, store
from fedjax_sim.reports.danger_zones import danger_zones, ranking
from fedjax_sim.reports.drawings import drawing, parse_figure
from fedjax_sim.reports.roc import curves
from fedjax_sim.reports.scores import CellScores, distributions, scores_of
from fedjax_sim.reports.tables import (
    Table,
    grid,
    published_table,
)
from fedjax_sim.reports.triggered_images import triggered_images
from fedjax_sim.reports.update_plane import update_geometry
from fedjax_sim.sweeps.matrix import matrices

USAGE = (
    "usage: {command} --results=DIR [--where=SQL] [--sql=SQL] "
    "[--layout=NAME [--small] | --rows=KEYS --columns=KEYS --values=METRICS] "
    "[--out=DIR]"
)


def make_flags() -> flags.FlagValues:
    """The flags of `launch/report.py`."""
    values = flags.FlagValues()
    for name, text in {
        "results": "Folder of the run directories (at any depth).",
        "where": "SQL condition on the columns of `runs`: only these runs.",
        "sql": "Prints the answer to a query over the tables `runs` and `rounds`.",
        "layout": "A paper's table or figure, or a matrix: "
        f"{', '.join(sorted([*layouts(), *matrices()]))}.",
        "out": "Folder for the report and the tables as parquet.",
    }.items():
        flags.DEFINE_string(name, None, text, flag_values=values)
    for name, text in {
        "rows": "Config keys of the rows of a table: defense.name",
        "columns": "Config keys of its columns: attack.dpr,partition.name",
        "values": "Metrics in its cells.",
        "ignore": "Keys or sections in which runs may differ from a layout's cells.",
    }.items():
        default = ["mta", "asr"] if name == "values" else []
        flags.DEFINE_list(name, default, text, flag_values=values)
    flags.DEFINE_multi_string(
        "figure",
        [],
        "METRIC[,METRIC]@FIELD or METRIC@round: a figure of the table's runs, against "
        "a row or column or over the rounds; may be repeated.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "small",
        False,
        "With --layout: the runs are those of the small version.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "cells", [], "FIELD=LABEL[,LABEL]: only these of a layout.", flag_values=values
    )
    flags.DEFINE_float(
        "held",
        10.0,
        "The page's summary says that a defence held where the ASR in percent is at "
        "most this.",
        lower_bound=0.0,
        upper_bound=100.0,
        flag_values=values,
    )
    flags.DEFINE_float(
        "mta",
        80.0,
        "Danger zones count where the MTA in percent is at least this.",
        lower_bound=0.0,
        upper_bound=100.0,
        flag_values=values,
    )
    flags.DEFINE_float(
        "asr",
        85.0,
        "... and the ASR in percent is at least this.",
        lower_bound=0.0,
        upper_bound=100.0,
        flag_values=values,
    )
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    command = shlex.join(["fedjax-sim", "report", *argv[1:]])
    return run_command(
        partial(_report, command), argv, make_flags(), USAGE, ["results"], False
    )


_NOT_WITH_SQL = ("where", "layout", "rows", "columns", "values", "figure", "out")


def _report(command: str, values: flags.FlagValues, _: Mapping[str, Any]) -> int:
    if values.layout in matrices():
        return report_matrix(values)
    if values.layout:
        check_layout(values.layout)
    layout = load_layout(values.layout) if values.layout else None
    if layout and (values.rows or values.columns):
        raise InputError("--layout has its own rows and columns: give one or the other")
    if (values.ignore or values.cells or values.small) and not layout:
        raise InputError("--ignore, --cells and --small belong to a --layout")
    asked = [parse_figure(text) for text in values.figure]
    if asked and not (layout or values.rows or values.columns):
        raise InputError("--figure needs a --layout, or --rows and --columns")
    if asked and values.out is None:
        raise InputError("--figure needs --out=DIR, where it is written")
    given = [key for key in _NOT_WITH_SQL if values[key].present]
    if values.sql and given:
        raise InputError(
            f"--sql asks for what it says: --{given[0]} has no part in it (a condition "
            "belongs into the query)"
        )
    if values["values"].present and not (layout or values.rows or values.columns):
        raise InputError("--values needs --rows and --columns, or a --layout")
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
        table = published_table(
            layout,
            runs,
            cells=values.cells,
            ignore=values.ignore,
            small=values.small,
        )
        asked += layout.get("figures", [])
    elif values.rows or values.columns:
        table = grid(
            runs, rows=values.rows, columns=values.columns, values=values.values
        )
    written: list[Path] = []
    if out is not None:
        name = values.layout or "report"
        with written_to("--out", out):
            out.mkdir(parents=True, exist_ok=True)
        if table is not None:
            scores = scores_of(table, results)
            drawn = draw(table, database, results, scores, values.mta, values.asr)
            drawn |= drawn_figures(asked, table, database)
            if "danger_zones" in drawn:
                table = with_ranking(table, values.mta, values.asr)
            made_with = Asked(command, values.held, values.mta, values.asr, out)
            pictures = _pictures(drawn)
            page = report_page(table, database, results, scores, pictures, made_with)
        written = store.write_parquet(database, out)
        if table is not None:
            with written_to("--out", out):
                written += write(table, drawn, page, out, name)
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
    table: Table,
    database: DuckDBPyConnection,
    results: Path,
    scores: Sequence[CellScores],
    least_mta: float,
    least_asr: float,
) -> dict[str, bytes]:
    """Draws what the runs of a table have to show; SVG by name."""
    runs = {run["run"]: run for cell in table.cells.values() for run in cell.runs}
    _, rounds = store.query(database, "SELECT * FROM rounds ORDER BY run, round")
    drawn = {
        "danger_zones": danger_zones(list(runs.values()), least_mta, least_asr),
        "bars": figures.bars(table),
        "over_rounds": figures.over_rounds(table, rounds),
        "scores": distributions(table, scores),
        "roc": curves(table, scores),
        "geometry": update_geometry(table, results),
        "triggers": triggered_images(list(runs.values()), results),
    }
    return {name: svg for name, svg in drawn.items() if svg is not None}


# What is no chart of the page: the titles, and what they show.
_TITLES = {
    "triggers": (
        "Triggers",
        "Test images without and with the trigger of each backdoor, and the difference",
    ),
    "geometry": (
        "Updates in a plane",
        "The clients of projected rounds, by who attacks, cluster and exclusion",
    ),
}


def _pictures(drawn: Mapping[str, bytes]) -> list[Picture]:
    """The figures that the page has no chart for."""
    charts = ("danger_zones", "bars", "over_rounds", "scores", "roc")
    return [
        Picture(*_TITLES.get(name, (name.replace("_", " "), "A figure asked for")), svg)
        for name, svg in drawn.items()
        if name not in charts
    ]


def with_ranking(table: Table, least_mta: float, least_asr: float) -> Table:
    """The table with a list of its danger zones, or that it has none."""
    runs = {run["run"]: run for cell in table.cells.values() for run in cell.runs}
    found = ranking(list(runs.values()), least_mta, least_asr)
    lines = [
        f"{r.name}: lr {r.lr:g}, batch {r.batch_size}, epochs {r.epochs}: MTA "
        f"{r.mta:.1f}, ASR {r.asr:.1f}"
        for r in found
    ]
    none = f"none with MTA from {least_mta:g} and ASR from {least_asr:g} % on"
    return table._replace(ranked=lines or [none])


def drawn_figures(
    asked: Sequence[Mapping[str, Any]], table: Table, database: DuckDBPyConnection
) -> dict[str, bytes]:
    """Draws the figures that were asked for; SVG by name."""
    drawn = {}
    for wanted in asked:
        found = drawing(wanted, table, database)
        if found is not None:
            place = wanted.get("x", "rounds").replace(".", "_")
            drawn["_".join([*wanted["values"][:3], "by", place])] = found
    return drawn


def write(
    table: Table, drawn: Mapping[str, bytes], page: str, out: Path, name: str
) -> list[Path]:
    """Writes NAME.md, NAME.tex, NAME.html and the figures; returns their paths."""
    drawn = {f"{name}_{k}": svg for k, svg in drawn.items()}
    contents = {
        f"{name}.md": render.markdown(table, drawn),
        f"{name}.tex": render.latex(table),
        f"{name}.html": page,
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
