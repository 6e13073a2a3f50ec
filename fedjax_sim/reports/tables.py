"""Tables of measured values, beside published ones where a paper has them.

Layouts of the papers' tables and figures: `papers.cells`.

`grid` makes the same tables from any columns of the store, without published values.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from fedjax_sim.core.errors import InputError, did_you_mean
from fedjax_sim.papers.cells import (
    MATCH,
    cell_config,
    cell_text,
    cells_of,
    format_label,
    stated,
)
from fedjax_sim.reports.matching import SEEDS, check_ignored, differences, unlike
from fedjax_sim.reports.settings import own_settings
from fedjax_sim.reports.store import Row, varying
from fedjax_sim.sweeps.executors import FINISHED

Labels = tuple[str, ...]


FLAGS = {
    "d": "the model or its loss was not finite in a run",
    "s": "rounds without an accepted client were skipped",
    "n": "updates with NaN or Inf were excluded",
    "i": "not all runs have finished",
    "u": "the measure is undefined in a run",
    "m": "the runs differ in more than their seed",
    "!": "the paper's number is doubtful, see the notes",
}


class Value(NamedTuple):
    """One number of a cell."""

    mean: float | None  # None: no finished run has it
    spread: float | None  # sample standard deviation over runs; None below two
    num_runs: int
    published: float | None
    flags: str  # letters of FLAGS
    decimals: int = 1  # to show of what was measured

    @property
    def difference(self) -> float | None:
        """Measured minus published."""
        if self.mean is None or self.published is None:
            return None
        return self.mean - self.published


class Cell(NamedTuple):
    """The runs of a cell and what they gave, by metric."""

    runs: list[Row]
    values: dict[str, Value]
    # (key, published, here) of its runs
    deviations: Sequence[tuple[str, str, str]] = ()


class Deviation(NamedTuple):
    """A config key in which runs differ from the published protocol."""

    key: str
    published: str
    here: str
    cells: int


class Table(NamedTuple):
    """What the renderers show."""

    title: str
    source: str  # of the published values; "" = none
    row_fields: Labels
    column_fields: Labels
    values: Labels
    rows: list[Labels]
    columns: list[Labels]
    cells: dict[tuple[Labels, Labels], Cell]
    deviations: list[Deviation]
    notes: list[str]
    settings: Sequence[str] = ()  # options other than the rules' defaults
    ranked: Sequence[str] = ()  # its danger zones, the worst first
    # Of a layout, whose values are fixed: what else a reader may look for in vain.
    missing: Sequence[str] | None = None


def published_table(
    layout: Mapping[str, Any],
    runs: Sequence[Row],
    *,
    cells: Sequence[str] = (),
    ignore: Sequence[str] = (),
    small: bool = False,
) -> Table:
    """Fills a paper's table.

    Args:
      layout: of `load_layout`.
      runs: rows of the store.
      cells: "field=label": only these cells of the table.
      ignore: sections or keys out of `match` that shall not decide; they are reported
        as differences from the protocol instead.
      small: runs of the small version belong to the cells; what they differ in from
        the published protocol is reported.

    Raises:
      InputError: a field or key that the layout does not have.
    """
    places = cells_of(layout, cells)
    check_ignored(ignore, cell_config(layout, places[0]))
    match = layout.get("match", MATCH)
    found: dict[tuple[Labels, Labels], Cell] = {}
    deviations: dict[tuple[str, str, str], int] = {}
    noted: dict[str, list[str]] = {}  # a note on published values -> of which
    nearest: list[set[str]] = []
    without = 0  # cells that have no small version
    for cell in places:
        published = cell_config(layout, cell)
        text = cell_text(layout, cell, small)
        chosen = []
        without += text is None
        if text is not None:
            config = cell_config(layout, cell, small)
            wrong = [unlike(run, config, match, ignore) for run in runs]
            chosen = [r for r, keys in zip(runs, wrong, strict=True) if not keys]
            nearest += [keys for keys in wrong if keys]
        numbers = {record["metric"]: record["value"] for record in cell.records}
        doubts = {r["metric"] for r in cell.records if r.get("note")}
        for record in cell.records:
            if record.get("note"):
                where = ", ".join((*cell.row, *cell.column, record["metric"]))
                noted.setdefault(record["note"], []).append(where)
        values = {
            name: _value(chosen, name, numbers.get(name), name in doubts)
            for name in layout["values"]
        }
        known = dict(stated(layout, cell))
        apart = {d for run in chosen for d in differences(run, published, known)}
        found[cell.row, cell.column] = Cell(chosen, values, sorted(apart))
        for difference in apart:
            deviations[difference] = deviations.get(difference, 0) + 1
    notes = [
        f"{'; '.join(of) if len(of) <= 4 else f'{len(of)} numbers'}: {note}"
        for note, of in noted.items()
    ]
    if runs and not any(cell.runs for cell in found.values()):
        keys = min(nearest, key=len, default=set())
        other = (
            "without --small it is the full size"
            if small
            else "--small looks for the small version"
        )
        notes.append(
            "No run belongs to a cell; the nearest differs in "
            f"{', '.join(sorted(keys)[:8])}: --ignore takes keys and sections, {other}"
        )
    missing = []
    if without:
        which = "; ".join(
            f"{field} {', '.join(labels)}"
            for field, labels in layout["small_cells"].items()
        )
        missing.append(
            f"{without} of {len(found)} cells have no small version: only {which}."
        )
    return Table(
        title=layout["title"] + " - in small" * small,
        source=layout["source"],
        row_fields=tuple(layout["rows"]),
        column_fields=tuple(layout["columns"]),
        values=tuple(layout["values"]),
        rows=list(dict.fromkeys(row for row, _ in found)),
        columns=list(dict.fromkeys(column for _, column in found)),
        cells=found,
        deviations=[Deviation(*key, n) for key, n in sorted(deviations.items())],
        notes=notes,
        settings=own_settings([r for cell in found.values() for r in cell.runs]),
        missing=missing,
    )


def grid(
    runs: Sequence[Row],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[str],
    title: str = "Results",
) -> Table:
    """Groups runs by config keys; what differs otherwise (seeds) is averaged.

    Numbers ascend; names are in the order in which the user wrote the runs, where that
    was noted, and by the alphabet.

    Raises:
      InputError: a key or value that no run has.
    """
    twice = [
        name
        for names in ((*rows, *columns), values)
        for name in names
        if [*map(column_of, names)].count(column_of(name)) > 1
    ]
    if twice:
        raise InputError(
            f"--rows, --columns and --values: {twice[0]} is given twice; once is enough"
        )
    for flag, names in (("rows", rows), ("columns", columns), ("values", values)):
        for name in names:
            if runs and column_of(name) not in runs[0]:
                hint = did_you_mean(column_of(name), runs[0])
                raise InputError(
                    f"--{flag}={name}: the runs have no such column; {hint}"
                )
    for name in values:
        text = [
            run[column_of(name)]
            for run in runs
            if isinstance(run[column_of(name)], str)
        ]
        if text:
            raise InputError(
                f"--values={name}: the column holds text ({text[0]!r}); allowed: "
                "columns of numbers, and this one as --rows or --columns"
            )

    def place(run: Row, keys: Sequence[str]) -> tuple[Any, ...]:
        return tuple(run[column_of(key)] for key in keys)

    def ordered(keys: Sequence[str]) -> list[tuple[Any, ...]]:
        found = dict.fromkeys(place(run, keys) for run in runs)
        written = [_written(runs, column_of(key)) for key in keys]
        return sorted(
            found,
            key=lambda p: [
                _sortable(value, first) for value, first in zip(p, written, strict=True)
            ],
        )

    by_place: dict[tuple[Any, Any], list[Row]] = {}
    for run in runs:
        by_place.setdefault((place(run, rows), place(run, columns)), []).append(run)
    cells = {}
    for row in ordered(rows):
        for column in ordered(columns):
            chosen = by_place.get((row, column), [])
            numbers = {
                name: _value(chosen, column_of(name), None, False) for name in values
            }
            cells[_labels(row), _labels(column)] = Cell(chosen, numbers)
    return Table(
        title=title,
        source="",
        row_fields=tuple(rows),
        column_fields=tuple(columns),
        values=tuple(values),
        rows=[_labels(row) for row in ordered(rows)],
        columns=[_labels(column) for column in ordered(columns)],
        cells=cells,
        deviations=[],
        notes=[],
        settings=own_settings(runs),
    )


def _value(runs: Sequence[Row], name: str, published, doubtful: bool) -> Value:
    finished = [run for run in runs if run["status"] == FINISHED]
    numbers = [run[name] for run in finished if run[name] is not None]
    flags = {
        "d": any(run["diverged"] for run in runs),
        "s": any(run["rounds_skipped"] for run in runs),
        "n": any(run["clients_non_finite"] for run in runs),
        "i": len(finished) < len(runs),
        "u": len(numbers) < len(finished),
        "m": not set(varying(list(runs))) <= {column_of(key) for key in SEEDS},
        "!": doubtful,
    }
    return Value(
        mean=mean(numbers) if numbers else None,
        spread=stdev(numbers) if len(numbers) > 1 else None,
        num_runs=len(numbers),
        published=published,
        flags="".join(letter for letter, is_set in flags.items() if is_set),
        decimals=decimals_of(name),
    )


def decimals_of(name: str) -> int:
    """Returns the decimals to show of a metric.

    Losses, errors, norms and inverse rounds are of order one, rates are percentages.
    """
    orders = ("reconstruction_error", "attack_effect", "recovery_rate")
    small = name.startswith(orders)
    return 3 if small or name.endswith("_loss") else 1


def column_of(key: str) -> str:
    """Returns the store's column of a config key."""
    return key.replace(".", "_")


def _labels(values: tuple[Any, ...]) -> Labels:
    return tuple(format_label(value) for value in values)


def _written(runs: Sequence[Row], column: str) -> dict[str, int]:
    """The names in a column, and the first place at which the user wrote them."""
    first: dict[str, int] = {}
    for run in runs:
        name, place = run[column], run.get("place")
        if isinstance(name, str) and place is not None:
            first[name] = min(place, first.get(name, place))
    return first


def _sortable(value: Any, written: Mapping[str, int]) -> tuple[Any, ...]:
    if value is None:  # such as of a run that failed before it had a config
        return (3,)
    if isinstance(value, int | float):
        return (1, value)
    return (2, written.get(value, math.inf), str(value))
