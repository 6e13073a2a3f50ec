"""ROC of what a defence judges clients by: which threshold would have told them apart?

For each score of rounds.jsonl, over all clients in all rounds of a cell: the share of
malicious clients above a threshold against that of benign ones, the area below, and the
threshold of the largest difference (Youden 1950). A defence has one threshold for all
rounds: how far the best one moves from round to round, and what a fixed one gives away,
is said beside it. Run FedREDefense with `observe` for the errors of clients that it
would have expelled.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from fedjax_sim.reports.figures import look, place_legend, svg
from fedjax_sim.reports.render import column_names
from fedjax_sim.reports.scores import CellScores, Scores
from fedjax_sim.reports.tables import Table

_LINES = 40  # that look different


class Roc(NamedTuple):
    """Of one score, rates from 0 to 1; flagged is above a threshold, or below it."""

    false_positives: np.ndarray  # f64 [k], rising
    true_positives: np.ndarray  # f64 [k]
    area: float  # at least 0.5, which is chance
    threshold: float
    above: bool  # who is flagged: clients above the threshold, or those below it


def roc(scores: Scores) -> Roc | None:
    """Returns the curve of a score; None without clients of both kinds.

    An undefined value is flagged at any threshold, as defences do.
    """
    found = _flagging(scores, 1.0)
    if found is None or found.area >= 0.5:
        return found
    return _flagging(scores, -1.0)


def _flagging(scores: Scores, sign: float) -> Roc | None:
    values = np.where(np.isnan(scores.values), np.inf, sign * scores.values)
    malicious = scores.malicious
    positives, negatives = malicious.sum(), (~malicious).sum()
    if not positives or not negatives:
        return None
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    last = np.append(ordered[1:] != ordered[:-1], True)  # of equal values
    hits = np.append(0, np.cumsum(malicious[order])[last]) / positives
    errors = np.append(0, np.cumsum(~malicious[order])[last]) / negatives
    area = float(np.trapezoid(hits, errors))
    best = int(np.argmax(hits - errors))
    steps = np.append(np.inf, ordered[last])
    below = steps[best + 1] if best + 1 < len(steps) else steps[best]
    finite = np.isfinite(steps[best])
    threshold = float((steps[best] + below) / 2 if finite else below)
    return Roc(errors, hits, area, sign * threshold, sign > 0)


class Stability(NamedTuple):
    """How the best threshold moves over the rounds in which both kinds took part."""

    rounds: int
    low: float  # the tenth percentile of the rounds' best thresholds
    middle: float  # their median
    high: float  # the ninetieth percentile
    fixed: float  # Youden's J of the threshold of all rounds, mean of the rounds
    own: float  # ... of each round's best threshold


def stability(scores: Scores, overall: Roc) -> Stability | None:
    """Returns how stable a threshold is; None without a round with both kinds.

    Args:
      scores: with rounds.
      overall: the curve of all of them, `roc(scores)`.
    """
    assert scores.rounds is not None, "scores of which rounds?"
    sign = 1.0 if overall.above else -1.0
    best, fixed, own = [], [], []
    for index in np.unique(scores.rounds):
        here = scores.rounds == index
        part = Scores(scores.values[here], scores.malicious[here])
        curve = _flagging(part, sign)
        if curve is None:
            continue
        best.append(curve.threshold)
        own.append((curve.true_positives - curve.false_positives).max())
        flagged = sign * part.values > sign * overall.threshold
        flagged |= np.isnan(part.values)
        fixed.append(
            flagged[part.malicious].mean() - flagged[~part.malicious].mean(),
        )
    if not best:
        return None
    low, middle, high = np.quantile(best, (0.1, 0.5, 0.9), method="nearest")
    return Stability(
        rounds=len(best),
        low=float(low),
        middle=float(middle),
        high=float(high),
        fixed=float(np.mean(fixed)),
        own=float(np.mean(own)),
    )


def curves(table: Table, scores: Sequence[CellScores]) -> bytes | None:
    """Draws the ROC of the scores of a table, a line for each of the first 40 cells.

    Args:
      table: of the cells.
      scores: of `scores_of`.

    Returns:
      SVG; None if no cell has a score of both kinds of clients.
    """
    names = dict(zip(table.columns, column_names(table), strict=True))
    found: dict[str, dict[str, tuple[Roc, Stability | None]]] = {}
    for row, column, score, values in scores[:_LINES]:
        curve = roc(values)
        if curve is not None:
            name = ", ".join(filter(None, (" / ".join(row), names[column])))
            moved = stability(values, curve)
            found.setdefault(score, {})[name] = curve, moved
    if not found:
        return None
    figure = Figure(figsize=(8.5, 4.2 * len(found) + 0.5), layout="constrained")
    axes = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    handles, labels = [], []
    for axis, (score, cells) in zip(axes, found.items(), strict=True):
        for k, (name, (curve, moved)) in enumerate(cells.items()):
            (line,) = axis.plot(
                100 * curve.false_positives, 100 * curve.true_positives, **look(k)
            )
            handles.append(line)
            labels.append(
                f"{name}: {score.replace('_', ' ')}, area {curve.area:.3f}, best "
                f"{'above' if curve.above else 'below'} {curve.threshold:.3g}"
                + _moved(moved)
            )
        axis.plot([0, 100], [0, 100], color="0.7", linewidth=0.8)
        axis.set_xlabel("benign clients flagged %")
        axis.set_ylabel(f"malicious flagged %, by {score.replace('_', ' ')}")
        axis.grid(alpha=0.3)
    place_legend(figure, handles, labels)
    return svg(figure)


def _moved(found: Stability | None) -> str:
    if found is None:
        return ""
    return (
        f" (a round's own {found.low:.3g} to {found.high:.3g}; "
        f"J {found.fixed:.2f}, {found.own:.2f} with its own)"
    )
