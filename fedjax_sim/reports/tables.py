"""Tables of measured values, beside published ones where a paper has them.

A layout is a JSON file in `layouts/`:

    title       of the table
    published   file in `published/` and `table` in it: records of {field: label}, with
                the metric, its value (null: not reported) and perhaps a note
    config      how our configs name a cell; {field} stands for the record's label, or
                for what `arguments` gives for it
    rows, columns   fields
    values      metrics, columns of `store`
    match       config keys that decide which runs belong to a cell; a run that differs
                from the cell's config in any other key is shown, and the difference is
                stated below the table

`grid` makes the same tables from any columns of the store, without published values.
"""

import json
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from fedjax_sim.core.errors import InputError, did_you_mean
from fedjax_sim.experiment.config import flatten, to_dict
from fedjax_sim.experiment.config_files import load_file, resolve_variants
from fedjax_sim.reports.store import Row, same, varying
from fedjax_sim.runs.files import plain
from fedjax_sim.sweeps.executors import FINISHED

Labels = tuple[str, ...]

# Differences that say nothing about a protocol.
SEEDS = ("seed", "partition.seed", "participation.offset")
_RECORDING = ("execution", "checkpoint", "log", "evaluation", "data.data_dir")

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


def published_table(
    layout: Mapping[str, Any],
    runs: Sequence[Row],
    *,
    cells: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Table:
    """Fills a paper's table.

    Args:
      layout: of `load_layout`.
      runs: rows of the store.
      cells: "field=label": only these cells of the table.
      ignore: config keys out of `match` that shall not decide; they are reported as
        differences from the protocol instead.

    Raises:
      InputError: a field or key that the layout does not have.
    """
    records = _chosen(layout, cells)
    for key in ignore:
        if key not in layout["match"]:
            raise InputError(
                f"--ignore={key}: the layout does not match on it; "
                f"{did_you_mean(key, layout['match'])}"
            )
    match = [key for key in layout["match"] if key not in ignore]
    grouped: dict[tuple[Labels, Labels], list[dict[str, Any]]] = {}
    for record in records:
        row, column = (
            tuple(format_value(record[field]) for field in layout[side])
            for side in ("rows", "columns")
        )
        place = row, column
        grouped.setdefault(place, []).append(record)
    found: dict[tuple[Labels, Labels], Cell] = {}
    deviations: dict[tuple[str, str, str], int] = {}
    notes: dict[str, None] = {}
    for place, own in grouped.items():
        config = cell_config(layout, own[0])
        chosen = [run for run in runs if _matches(run, config, match)]
        numbers = {record["metric"]: record["value"] for record in own}
        doubts = {r["metric"] for r in own if r.get("note")}
        for record in own:
            if record.get("note"):
                where = ", ".join((*place[0], *place[1]))
                notes[f"{where}, {record['metric']}: {record['note']}"] = None
        values = {
            name: _value(chosen, name, numbers.get(name), name in doubts)
            for name in layout["values"]
        }
        found[place] = Cell(chosen, values)
        for difference in {
            d for run in chosen for d in _differences(run, config, match)
        }:
            deviations[difference] = deviations.get(difference, 0) + 1
    return Table(
        title=layout["title"],
        source=layout["source"],
        row_fields=tuple(layout["rows"]),
        column_fields=tuple(layout["columns"]),
        values=tuple(layout["values"]),
        rows=list(dict.fromkeys(row for row, _ in found)),
        columns=list(dict.fromkeys(column for _, column in found)),
        cells=found,
        deviations=[Deviation(*key, n) for key, n in sorted(deviations.items())],
        notes=list(notes),
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

    Raises:
      InputError: a key or value that no run has.
    """
    for flag, names in (("rows", rows), ("columns", columns), ("values", values)):
        for name in names:
            if runs and _column(name) not in runs[0]:
                hint = did_you_mean(_column(name), runs[0])
                raise InputError(
                    f"--{flag}={name}: the runs have no such column; {hint}"
                )
    for name in values:
        text = [
            run[_column(name)] for run in runs if isinstance(run[_column(name)], str)
        ]
        if text:
            raise InputError(
                f"--values={name}: the column holds text ({text[0]!r}); allowed: "
                "columns of numbers, and this one as --rows or --columns"
            )

    def place(run: Row, keys: Sequence[str]) -> tuple[Any, ...]:
        return tuple(run[_column(key)] for key in keys)

    def ordered(keys: Sequence[str]) -> list[tuple[Any, ...]]:
        found = dict.fromkeys(place(run, keys) for run in runs)
        return sorted(found, key=lambda p: [_sortable(value) for value in p])

    cells = {}
    for row in ordered(rows):
        for column in ordered(columns):
            chosen = [
                run
                for run in runs
                if (place(run, rows), place(run, columns)) == (row, column)
            ]
            numbers = {
                name: _value(chosen, _column(name), None, False) for name in values
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
    )


def cell_config(layout: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved config that our files give to a cell: {"section.key": value}."""
    arguments = layout["arguments"]
    text = layout["config"].format(
        **{
            field: arguments.get(field, {}).get(format_value(label), label)
            for field, label in record.items()
        }
    )
    (config,) = resolve_variants(load_file(text), {}).values()
    values = flatten(plain(to_dict(config)))
    fakes = config.attack.num_fake
    population = config.partition.num_clients + fakes
    values["mcr"] = 100 * (config.attack.num_malicious + fakes) / population
    return values


def _chosen(layout: Mapping[str, Any], cells: Sequence[str]) -> list[dict[str, Any]]:
    records = layout["records"]
    for text in cells:
        field, _, labels = text.partition("=")
        fields = [key for key in records[0] if key not in ("metric", "value", "note")]
        if field not in fields:
            raise InputError(
                f"--cells={text}: FIELD=LABEL[,LABEL]; {did_you_mean(field, fields)}"
            )
        allowed = labels.split(",")
        known = dict.fromkeys(
            format_value(record[field]) for record in layout["records"]
        )
        for label in allowed:
            if label not in known:
                raise InputError(f"--cells={text}: {did_you_mean(label, known)}")
        records = [
            record for record in records if format_value(record[field]) in allowed
        ]
    if not records:
        raise InputError(f"--cells={','.join(cells)}: the table has no such cell")
    return records


def _matches(run: Row, config: Mapping[str, Any], match: Sequence[str]) -> bool:
    return all(same(run.get(_column(key)), config.get(key)) for key in match)


def _differences(run, config, match) -> set[tuple[str, str, str]]:
    found = set()
    for key, value in config.items():
        if key in match or key in (*SEEDS, *_RECORDING):
            continue
        if key.partition(".")[0] in _RECORDING:
            continue
        here = run.get(_column(key))
        if isinstance(value, list):
            value = json.dumps(value)
        if not same(here, value):
            found.add((key, str(value), str(here)))
    return found


def _value(runs: Sequence[Row], name: str, published, doubtful: bool) -> Value:
    finished = [run for run in runs if run["status"] == FINISHED]
    numbers = [run[name] for run in finished if run[name] is not None]
    flags = {
        "d": any(run["diverged"] for run in runs),
        "s": any(run["rounds_skipped"] for run in runs),
        "n": any(run["clients_non_finite"] for run in runs),
        "i": len(finished) < len(runs),
        "u": len(numbers) < len(finished),
        "m": not set(varying(list(runs))) <= {_column(key) for key in SEEDS},
        "!": doubtful,
    }
    return Value(
        mean=mean(numbers) if numbers else None,
        spread=stdev(numbers) if len(numbers) > 1 else None,
        num_runs=len(numbers),
        published=published,
        flags="".join(letter for letter, is_set in flags.items() if is_set),
        decimals=1 if _is_percent(name) else 3,
    )


def _is_percent(name: str) -> bool:
    """Losses and reconstruction errors are of order one, rates are percentages."""
    return not name.startswith("reconstruction_error") and not name.endswith("_loss")


def _column(key: str) -> str:
    """The store's column of a config key."""
    return key.replace(".", "_")


def format_value(value: Any) -> str:
    """A number or name as a label; "-" where a run has no such key."""
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _labels(values: tuple[Any, ...]) -> Labels:
    return tuple(format_value(value) for value in values)


def _sortable(value: Any) -> tuple[int, Any]:
    if value is None:
        return (0, 0)
    return (1, value) if isinstance(value, int | float) else (2, str(value))
