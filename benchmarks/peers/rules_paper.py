"""What the papers say, in float64 and as plainly as they do: the table's measure.

Letters: `n` clients, `d` parameters, `f` Byzantine clients. Sources: the rules' own
files in `fedjax_sim/defenses` and `fedjax_sim/stages`.
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np

Rows = np.ndarray  # f64 [n, d]


def squared(rows: Rows) -> np.ndarray:
    """Squared distances f64 [n, n]."""
    return np.square(rows[:, None] - rows[None]).sum(-1)


def nearest(distances: np.ndarray, count: int) -> np.ndarray:
    """The `count` nearest; of equal ones the first."""
    return np.argsort(distances, kind="stable")[:count]


def krum_scores(rows: Rows, f: int) -> np.ndarray:
    """Sums of the squared distances to the n - f - 2 nearest others."""
    near = np.sort(squared(rows) + np.diag([np.inf] * len(rows)), axis=1)
    return near[:, : max(len(rows) - f - 2, 1)].sum(1)


def krum(rows: Rows, f: int) -> np.ndarray:
    return rows[krum_scores(rows, f).argmin()]


def multikrum(rows: Rows, f: int) -> np.ndarray:
    return rows[nearest(krum_scores(rows, f), len(rows) - f)].mean(0)


def around(rows: Rows, count: int) -> np.ndarray:
    """In each coordinate the mean of the `count` values nearest to the median."""
    gaps = np.abs(rows - np.median(rows, axis=0))
    chosen = np.argsort(gaps, axis=0, kind="stable")[:count]
    return np.take_along_axis(rows, chosen, 0).mean(0)


def bulyan(rows: Rows, f: int) -> np.ndarray:
    left, chosen = list(range(len(rows))), []
    for _ in range(len(rows) - 2 * f):
        best = left[krum_scores(rows[left], f).argmin()]
        chosen.append(best)
        left.remove(best)
    return around(rows[chosen], len(chosen) - 2 * f)


def geometric_median(rows: Rows, f: int) -> np.ndarray:
    """Four smoothed Weiszfeld steps from the mean."""
    del f
    point = rows.mean(0)
    floor = 1e-6 * np.median(np.linalg.norm(rows - point, axis=1)) + 1e-300
    for _ in range(4):
        weights = 1 / np.maximum(np.linalg.norm(rows - point, axis=1), floor)
        point = weights @ rows / weights.sum()
    return point


def clipped(rows: Rows, limit: float) -> Rows:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows * np.minimum(1, limit / np.maximum(norms, 1e-300))


def of_least(rows: Rows, f: int, cost: Callable[[Rows], float]) -> np.ndarray:
    """The mean of the n - f rows of the least cost; of equal ones the first."""
    subsets = [list(s) for s in combinations(range(len(rows)), len(rows) - f)]
    return rows[min(subsets, key=lambda s: cost(rows[s]))].mean(0)


def spread(rows: Rows) -> float:
    """The largest eigenvalue of the covariance."""
    away = rows - rows.mean(0)
    return np.linalg.eigvalsh(away @ away.T)[-1] / len(rows)


def caf(rows: Rows, f: int) -> np.ndarray:
    """The maximum of tau over clients whose weight is not 0 yet."""
    c, best = np.ones(len(rows)), (np.inf, rows.mean(0))
    while c.sum() > len(rows) - 2 * f + 1e-9:
        mean = c @ rows / c.sum()
        away = rows - mean
        roots = np.sqrt(c / c.sum())
        values, vectors = np.linalg.eigh(roots[:, None] * (away @ away.T) * roots)
        if values[-1] <= 1e-300:
            return mean
        if values[-1] < best[0]:
            best = values[-1], mean
        tau = np.square(away @ (away.T @ (roots * vectors[:, -1])))
        c = c * (1 - tau / tau[c > 0].max())
    return best[1]


def monna(rows: Rows, f: int) -> np.ndarray:
    away = np.square(rows - rows[0]).sum(1)
    return rows[nearest(away, len(rows) - f)].mean(0)


def nnm(rows: Rows, f: int) -> np.ndarray:
    count = len(rows) - f
    return np.mean([rows[nearest(row, count)].mean(0) for row in squared(rows)], axis=0)


def arc(rows: Rows, f: int) -> np.ndarray:
    n = len(rows)
    k = int(2 * f / n * (n - f))
    limit = np.sort(np.linalg.norm(rows, axis=1))[::-1][k]
    return clipped(rows, limit).mean(0)


def trimmed_mean(rows: Rows, f: int) -> np.ndarray:
    return np.sort(rows, axis=0)[f : len(rows) - f].mean(0)


PAPER: dict[str, Callable[[Rows, int], np.ndarray]] = {
    "mean": lambda rows, f: rows.mean(0),
    "median": lambda rows, f: np.median(rows, axis=0),
    "trimmed_mean": trimmed_mean,
    "krum": krum,
    "multikrum": multikrum,
    "bulyan": bulyan,
    "geometric_median": geometric_median,
    "centered_clipping": lambda rows, f: clipped(rows, 10.0).mean(0),
    "meamed": lambda rows, f: around(rows, len(rows) - f),
    "monna": monna,
    "mda": lambda rows, f: of_least(rows, f, lambda s: squared(s).max()),
    "smea": lambda rows, f: of_least(rows, f, spread),
    "caf": caf,
    "nnm + mean": nnm,
    "arc + mean": arc,
    "clipping + mean": lambda rows, f: clipped(rows, 2.0).mean(0),
}
