"""Who wins: paired differences between the rows of a table, with their uncertainty.

Two rows are compared over the runs that differ in nothing else: those of one column and
one seed. The mean difference comes with a 95 % interval by the bootstrap (Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3) over these pairs.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from fedjax_sim.reports.matching import SEEDS
from fedjax_sim.reports.tables import Labels, Table, column_of
from fedjax_sim.sweeps.executors import FINISHED

# With fewer pairs all of them fall on one side by chance in 1 of 16 cases and more,
# and a bootstrap of three values knows nothing beyond the three.
LEAST_PAIRS = 6

# Of more rows each pair would take minutes in all.
MOST_ROWS = 40

_RESAMPLES = 4000


class Difference(NamedTuple):
    """What one row has more than another."""

    mean: float
    low: float  # of the 95 % interval
    high: float
    pairs: int

    @property
    def clear(self) -> bool:
        """Whether it is more than noise."""
        return self.pairs >= LEAST_PAIRS and (self.low > 0 or self.high < 0)


class Standing(NamedTuple):
    """How a row stands against all others in one metric."""

    metric: str
    row: Labels
    better: int  # than so many rows, clearly
    unclear: int
    worse: int
    behind: Difference | None  # the best row minus this one; None: it is the best


def better_sign(metric: str) -> int:
    """Returns 1 where more is better, -1 where less is, 0 where neither is known."""
    if any(word in metric for word in _LESS):
        return -1
    return 1 if any(word in metric for word in _MORE) else 0


_LESS = ("asr", "loss", "test_error", "seconds", "bytes", "mitigation_rounds")
_MORE = ("mta", "dacc", "accuracy")


def standings(table: Table) -> list[Standing]:
    """Returns the rows of each metric, the best first; [] if nothing can be compared.

    Nothing is of more than `MOST_ROWS` rows.

    The best is the row that is clearly better than most others, and of those with as
    many the one with the better mean.
    """
    found: list[Standing] = []
    if len(table.rows) > MOST_ROWS:
        return found
    for metric in filter(better_sign, table.values):
        values = {row: _by_pair(table, row, metric) for row in table.rows}
        differences: dict[tuple[Labels, Labels], Difference] = {}
        for one, other in combinations(table.rows, 2):
            difference = paired(values[one], values[other])
            if difference is not None:
                differences[one, other] = difference
                differences[other, one] = _turned(difference)
        if not any(d.pairs >= LEAST_PAIRS for d in differences.values()):
            continue
        found += _ranked(metric, table.rows, differences)
    return found


def against(table: Table, one: Labels, other: Labels, metric: str) -> Difference | None:
    """Returns row `one` minus row `other`; None if no two of their runs are a pair."""
    return paired(_by_pair(table, one, metric), _by_pair(table, other, metric))


def paired(one: dict, other: dict) -> Difference | None:
    """Returns `one` minus `other` (values by what pairs them); None without a pair."""
    from scipy.stats import bootstrap  # slow to import

    keys = [key for key in one if key in other]
    if not keys:
        return None
    values = np.array([one[key] - other[key] for key in keys])
    if len(values) == 1:
        return Difference(float(values[0]), -np.inf, np.inf, 1)
    interval = bootstrap(
        (values,),
        np.mean,
        method="percentile",
        n_resamples=_RESAMPLES,
        rng=np.random.default_rng(0),
    ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    return Difference(float(values.mean()), low, high, len(values))


def _turned(difference: Difference) -> Difference:
    mean, low, high, pairs = difference
    return Difference(-mean, -high, -low, pairs)


def _by_pair(table: Table, row: Labels, metric: str) -> dict[tuple, float]:
    """The values of a row's finished runs by column and seeds.

    Cells whose runs differ in more than their seed are left out: nothing says which of
    them would be a pair.
    """
    name = column_of(metric)
    found: dict[tuple, list[float]] = {}
    for column in table.columns:
        cell = table.cells.get((row, column))
        if cell is None or "m" in cell.values[metric].flags:
            continue
        for run in cell.runs:
            if run["status"] == FINISHED and run[name] is not None:
                seeds = tuple(run.get(column_of(key)) for key in SEEDS)
                found.setdefault((column, seeds), []).append(run[name])
    return {key: float(np.mean(values)) for key, values in found.items()}


def _ranked(
    metric: str,
    rows: Sequence[Labels],
    differences: dict[tuple[Labels, Labels], Difference],
) -> list[Standing]:
    sign = better_sign(metric)
    counts = {}
    for row in rows:
        own = [d for (one, _), d in differences.items() if one == row]
        if not own:
            continue
        better = sum(d.clear and sign * d.mean > 0 for d in own)
        worse = sum(d.clear and sign * d.mean < 0 for d in own)
        lead = float(np.mean([sign * d.mean for d in own]))
        counts[row] = (better, len(own) - better - worse, worse, lead)
    order = sorted(counts, key=lambda r: (counts[r][0] - counts[r][2], counts[r][3]))
    best = order[-1]
    return [
        Standing(metric, row, *counts[row][:3], differences.get((best, row)))
        for row in reversed(order)
    ]
