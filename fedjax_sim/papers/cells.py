"""The cells of a layout: which config makes each, in full size and in small.

One definition serves the runs (`sweep --layout`), their small version and the report. A
layout is a JSON file in a paper's `layouts/`:

    title       of the table or figure
    table       in the paper's `published.json`: records of {field: label}, with the
                metric, its value (null: not reported) and perhaps a note
    cells       blocks of {field: [labels]}: the cells of a figure, of which nothing is
                published in numbers; every combination in a block
    config      how our configs name a cell, FILE:ARGUMENTS; {field} stands for the
                cell's label, or for what `arguments` gives for it
    small       the same for the small version, with `small_arguments` before
                `arguments`; `small_cells` are {field: [labels]} that have one
    repeats, small_repeats  points of every cell, such as [{"seed": 0}, {"seed": 1}]
    rows, columns   fields
    values      metrics, columns of the report's store
    match       sections and keys that decide which runs belong to a cell, by default
                `MATCH`, all that an experiment is; repeats and `--ignore` excepted
    stated      [{"where": {field: [labels]}, "key", "published"}]: what the paper ran
                where our config does not
    figures     what to draw beside the table, see `reports.drawings`
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from fedjax_sim.core.errors import InputError, did_you_mean
from fedjax_sim.experiment.config import flatten, to_dict
from fedjax_sim.experiment.config_files import load_file, resolve_variants

Record = Mapping[str, Any]
MATCH = (
    "rounds",
    "data",
    "partition",
    "model",
    "client",
    "server",
    "participation",
    "attack",
    "defense",
    "client_defense",
    "mcr",
    "evaluation.batch_statistics",
)
_VALUES = ("metric", "value", "note")


class Cell(NamedTuple):
    """A place in a table and its records, one a published metric."""

    row: tuple[str, ...]
    column: tuple[str, ...]
    records: list[Record]


def format_label(value: Any) -> str:
    """A number or name as a label; "-" where there is none."""
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def cells_of(layout: Mapping[str, Any], chosen: Sequence[str] = ()) -> list[Cell]:
    """Returns the cells of a layout, in its order.

    Args:
      layout: of `papers.load_layout`.
      chosen: "field=label" or "field=label,label": only these.

    Raises:
      InputError: a field or label that the layout does not have, or no cell left.
    """
    found: dict[tuple[Any, Any], Cell] = {}
    for record in _chosen(layout, chosen):
        row, column = (
            tuple(format_label(record[field]) for field in layout[side])
            for side in ("rows", "columns")
        )
        found.setdefault((row, column), Cell(row, column, [])).records.append(record)
    return list(found.values())


def cell_text(layout: Mapping[str, Any], cell: Cell, small: bool = False) -> str | None:
    """FILE:ARGUMENTS of a cell; None: it has no small version."""
    record = cell.records[0]
    if small and not _among(record, layout.get("small_cells", {})):
        return None
    tables = [layout.get("arguments", {})]
    if small:
        tables.insert(0, layout.get("small_arguments", {}))

    def value(field: str, label: Any) -> Any:
        name = format_label(label)
        return next((t[field][name] for t in tables if name in t.get(field, {})), label)

    fields = {field: value(field, label) for field, label in record.items()}
    return layout["small" if small else "config"].format(**fields)


def cell_config(
    layout: Mapping[str, Any], cell: Cell, small: bool = False
) -> dict[str, Any]:
    """The resolved config that our files give to a cell: {"section.key": value}.

    Raises:
      InputError: it has no small version.
    """
    text = cell_text(layout, cell, small)
    if text is None:
        raise InputError(f"{layout['title']}: no small version of {cell.row}")
    (config,) = resolve_variants(load_file(text), {}).values()
    values = flatten(to_dict(config))
    fakes = config.attack.num_fake
    population = config.partition.num_clients + fakes
    values["mcr"] = 100 * (config.attack.num_malicious + fakes) / population
    return values


def points_of(
    layout: Mapping[str, Any], chosen: Sequence[str] = (), small: bool = False
) -> list[dict[str, Any]]:
    """Returns the points of a sweep over the cells, each with a `base` of its own.

    Raises:
      InputError: see `cells_of`; or nothing in it has a small version.
    """
    if small and "small" not in layout:
        raise InputError(f"--small: {layout['title']} has no small version")
    repeats = layout.get("small_repeats" if small else "repeats", [{}])
    texts = [cell_text(layout, cell, small) for cell in cells_of(layout, chosen)]
    bases = [text for text in dict.fromkeys(texts) if text is not None]
    if not bases:
        raise InputError(
            f"--cells={','.join(chosen)}: none of these cells has a small version; "
            f"allowed: {layout.get('small_cells')}"
        )
    return [{"base": base, **repeat} for base in bases for repeat in repeats]


def stated(layout: Mapping[str, Any], cell: Cell) -> Iterator[tuple[str, str]]:
    """What the paper ran where our config does not: config key, published value."""
    for entry in layout.get("stated", ()):
        if _among(cell.records[0], entry["where"]):
            yield entry["key"], entry["published"]


def _among(record: Record, where: Mapping[str, Sequence[str]]) -> bool:
    return all(format_label(record[field]) in labels for field, labels in where.items())


def all_records(layout: Mapping[str, Any]) -> list[Record]:
    """The published records, and those of cells of which nothing is published."""
    found = list(layout["records"])
    for block in layout.get("cells", ()):
        for labels in product(*block.values()):
            cell = dict(zip(block, labels, strict=True))
            found.append({**cell, "metric": None, "value": None})
    return found


def _chosen(layout: Mapping[str, Any], chosen: Sequence[str]) -> list[Record]:
    every = records = all_records(layout)
    for text in chosen:
        field, _, labels = text.partition("=")
        fields = [key for key in records[0] if key not in _VALUES]
        if field not in fields:
            raise InputError(
                f"--cells={text}: FIELD=LABEL[,LABEL]; {did_you_mean(field, fields)}"
            )
        allowed = labels.split(",")
        known = dict.fromkeys(format_label(record[field]) for record in every)
        for label in allowed:
            if label not in known:
                raise InputError(f"--cells={text}: {did_you_mean(label, known)}")
        records = [r for r in records if format_label(r[field]) in allowed]
    if not records:
        raise InputError(f"--cells={','.join(chosen)}: the table has no such cell")
    return records
