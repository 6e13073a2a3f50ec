"""The report of a matrix: run directories in; heat maps, a table and numbers out."""

import os
from pathlib import Path
from typing import Any

from absl import flags

from fedjax_sim.commands.flags import written_to
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.paths import local_path
from fedjax_sim.reports.matrix import Entry, entries, maps
from fedjax_sim.reports.matrix_page import markdown, page
from fedjax_sim.runs.files import write_json
from fedjax_sim.sweeps.matrix import load_matrix, matrix_cells

_NOT_OF_A_MATRIX = (
    "rows",
    "columns",
    "values",
    "ignore",
    "figure",
    "where",
    "sql",
    "held",
    "mta",
    "asr",
)


def report_matrix(values: flags.FlagValues) -> int:
    """Prints a line a rule, and writes NAME.html, NAME.md and NAME.json to `--out`.

    Args:
      values: of `commands.report.make_flags`, with `layout` the name of a matrix.

    Raises:
      InputError: a flag that a matrix has no use for, cells that it does not have, or
        a folder without any of its runs.
    """
    name = values.layout
    for flag in _NOT_OF_A_MATRIX:
        if values[flag].present:
            given = values[flag].value
            text = ",".join(given) if isinstance(given, list) else given
            text = f"{text:g}" if isinstance(text, float) else text
            raise InputError(
                f"--{flag}={text}: --layout={name} is a matrix, which "
                "has rows, columns and numbers of its own; allowed: --cells, --small, "
                "--out"
            )
    results = local_path("--results", values.results)
    matrix = load_matrix(name)
    found = entries(matrix, matrix_cells(matrix, values.cells, values.small), results)
    if not any(entry.runs or entry.failed for entry in found):
        raise InputError(
            f"--results={results}: none of the runs of --layout={name} is there; "
            f"fedjax-sim sweep --layout={name} carries them out"
        )
    drawn = maps(found)
    text = markdown(matrix.title, drawn)
    if values.out is not None:
        out = local_path("--out", values.out)
        beside = Path(os.path.relpath(results.resolve(), out.resolve())).as_posix()
        html = page(matrix.title, drawn, beside)
        with written_to("--out", out):
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{name}.html").write_text(html)
            (out / f"{name}.md").write_text(text)
            write_json(out / f"{name}.json", [_record(entry) for entry in found])
        print("written:", *(str(out / f"{name}.{x}") for x in ("html", "md", "json")))
    print(text)
    return 0


def _record(entry: Entry) -> dict[str, Any]:
    """What NAME.json holds of a cell; rates in percent, null = no finished run."""
    spreads = {name: getattr(entry, name) for name in ("mta", "asr", "lost", "cost")}
    return {
        **entry.labels,
        "refused": entry.refused,
        "failed": entry.failed,
        "runs": entry.runs,
        "expected": entry.expected,
        **{name: value and value._asdict() for name, value in spreads.items()},
        "first": entry.first,
        "factor": entry.factor,
        "server_ms": entry.server_ms,
    }
