"""A report in words: which defence held, and what that cost in accuracy."""

from collections.abc import Sequence
from typing import NamedTuple

from fedjax_sim.contracts.config import DefenseSection
from fedjax_sim.reports.paired import (
    LEAST_PAIRS,
    MOST_ROWS,
    Difference,
    against,
    better_sign,
)
from fedjax_sim.reports.render import label
from fedjax_sim.reports.tables import Labels, Table

_NAMED = 4  # of rows in the first sentence
UNDEFENDED = DefenseSection().name  # what the schema takes without a word


class Verdict(NamedTuple):
    """How a row did in its measured columns."""

    row: int  # of the table
    held: int  # columns in which the ASR stayed at or below the threshold
    measured: int  # columns
    lowest: float  # ASR, percent
    highest: float
    reference: Labels | None  # the row it is compared with; None: there is none
    # of accuracy against the reference's, percentage points
    change: Difference | None


def metrics_of(table: Table) -> tuple[str | None, str | None]:
    """Returns the accuracy and the rate of success among a table's values."""
    accuracy = next((v for v in table.values if better_sign(v) > 0), None)
    return accuracy, next((v for v in table.values if is_success(v)), None)


def is_success(metric: str) -> bool:
    """Whether a metric is the success of an attack, in percent."""
    return "asr" in metric and not metric.endswith("_std")


def reference_of(table: Table, row: Labels) -> Labels | None:
    """The row without a defence that agrees with a row in every other label."""
    place = next(
        (i for i, f in enumerate(table.row_fields) if f.startswith("defense")), None
    )
    if place is None:
        return None
    others = lambda labels: (*labels[:place], *labels[place + 1 :])
    for other in table.rows:
        if others(other) == others(row) and _undefended(table, other):
            return other
    return None


def _undefended(table: Table, row: Labels) -> bool:
    runs = [r for c in table.columns for r in _runs(table, row, c)]
    return bool(runs) and all(run["defense_name"] == UNDEFENDED for run in runs)


def _runs(table: Table, row: Labels, column: Labels) -> list:
    cell = table.cells.get((row, column))
    return cell.runs if cell else []


def verdicts(table: Table, most: float) -> list[Verdict]:
    """Returns the rows with a measured ASR, those that held best first.

    Args:
      table: see `reports.tables`.
      most: the ASR in percent up to which a defence holds.
    """
    accuracy, success = metrics_of(table)
    if success is None:
        return []
    found = []
    for index, row in enumerate(table.rows):
        cells = [table.cells.get((row, column)) for column in table.columns]
        values = [cell.values[success].mean for cell in cells if cell is not None]
        rates = [value for value in values if value is not None]
        if not rates:
            continue
        reference, change = reference_of(table, row), None
        if reference is not None and reference != row and accuracy is not None:
            change = against(table, row, reference, accuracy)
        held = sum(rate <= most for rate in rates)
        ends = min(rates), max(rates)
        found.append(Verdict(index, held, len(rates), *ends, reference, change))
    return sorted(found, key=_order)


def _order(one: Verdict) -> tuple[float, float, float]:
    """The share of columns that held, then the accuracy kept, then the ASR."""
    gain = one.change.mean if one.change else 0.0
    return -one.held / one.measured, -gain, one.highest


def lead(table: Table, found: Sequence[Verdict], most: float) -> str:
    """The first sentence of a report."""
    _, success = metrics_of(table)
    none_yet = "No run of the table has finished, so nothing is measured yet."
    if not any(cell.runs for cell in table.cells.values()):
        return none_yet
    if success is None:
        hint = ": --values=mta,asr shows both" if table.missing is None else ""
        return (
            "The table shows no attack success rate, so nothing is said here about who "
            f"held{hint}."
        )
    if not found:
        return none_yet
    held = [one for one in found if one.held == one.measured]
    everywhere = "everywhere"
    if any(one.measured < len(table.columns) for one in found):
        everywhere = "wherever it was measured"
    rows = f"{len(found)} row{'s' * (len(found) != 1)}"
    if len(found) < len(table.rows):
        rows = f"{len(found)} measured {rows.split()[1]} ({len(table.rows)} in all)"
    name = label(success)
    if not held:
        return f"None of the {rows} kept {name} at or below {most:g} % {everywhere}."
    without = [one for one in found if one.reference == table.rows[one.row]]
    if without and all(one in held for one in without):
        names = " / ".join(table.rows[without[0].row])
        return (
            f"The attack did not get through {names} either ({name} at or below "
            f"{most:g} % {everywhere}): nothing is said here about who holds."
        )
    costs = [one for one in held if one.change is not None]
    text = f"{len(held)} of {rows} kept {name} at or below {most:g} % {everywhere}"
    if len(held) == 1:
        return f"{text}: {' / '.join(table.rows[held[0].row])}."
    if not costs:
        return f"{text}."
    best = " / ".join(table.rows[costs[0].row])
    return f"{text}, {best} at the least cost in accuracy{_level(table, costs)}."


def _level(table: Table, costs: Sequence[Verdict]) -> str:
    """Who cannot be told from the first by accuracy."""
    accuracy, _ = metrics_of(table)
    first = table.rows[costs[0].row]
    names = []
    for one in costs[1:MOST_ROWS]:
        apart = accuracy and against(table, table.rows[one.row], first, accuracy)
        if not apart or not apart.clear or apart.pairs < LEAST_PAIRS:
            names.append(" / ".join(table.rows[one.row]))
    if not names:
        return ""
    if len(names) > _NAMED:
        names = [*names[: _NAMED - 1], f"{len(names) - _NAMED + 1} more"]
    return f" (not told apart from it: {', '.join(names)})"


def words(table: Table, one: Verdict, most: float) -> str:
    """A verdict as a sentence that goes on after the row's name."""
    accuracy, success = metrics_of(table)
    name = label(success or "")
    if one.measured == 1:
        verb = "kept" if one.held else "did not keep"
        held = f"{verb} {name} at or below {most:g} %: {one.highest:.1f}"
    else:
        rates = f"{one.lowest:.1f} to {one.highest:.1f}"
        columns = f"{one.held} of {one.measured} columns"
        if one.measured < len(table.columns):
            columns = f"{one.held} of the {one.measured} columns that have one"
        held = f"kept {name} at or below {most:g} % in {columns} ({rates})"
    if one.reference == table.rows[one.row]:
        return f"{held}. It is what the others are compared with."
    if one.change is None or one.reference is None or accuracy is None:
        return f"{held}."
    return f"{held}; {_cost(label(accuracy), ' / '.join(one.reference), one.change)}."


def _cost(accuracy: str, reference: str, change: Difference) -> str:
    """What a row has more or less than the reference, and whether that is noise."""
    points = f"{abs(change.mean):.1f} points"
    side = "above" if change.mean >= 0 else "below"
    text = f"{accuracy} {points} {side} {reference}"
    if change.pairs < LEAST_PAIRS:
        pairs = f"{change.pairs} pair{'s' * (change.pairs != 1)} of runs"
        return f"{text} (only {pairs}: too few to tell it from noise)"
    interval = f"{change.low:+.2f} to {change.high:+.2f}, {change.pairs} pairs"
    if change.clear:
        return f"{text} ({interval})"
    return f"{text}, within the spread ({interval})"
