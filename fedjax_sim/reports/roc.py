"""ROC of what a defence judges clients by: which threshold would have told them apart?

For each score of rounds.jsonl, over all clients in all rounds of a cell: the share of
malicious clients above a threshold against that of benign ones, the area below, and the
threshold of the largest difference (Youden 1950). Run FedREDefense with `observe` for
the errors of clients that it would have expelled.
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


def curves(table: Table, scores: Sequence[CellScores]) -> bytes | None:
    """Draws the ROC of the scores of a table, a line for each of the first 40 cells.

    Args:
      table: of the cells.
      scores: of `scores_of`.

    Returns:
      SVG; None if no cell has a score of both kinds of clients.
    """
    names = dict(zip(table.columns, column_names(table), strict=True))
    found: dict[str, dict[str, Roc]] = {}
    for row, column, score, values in scores[:_LINES]:
        curve = roc(values)
        if curve is not None:
            name = ", ".join(filter(None, (" / ".join(row), names[column])))
            found.setdefault(score, {})[name] = curve
    if not found:
        return None
    figure = Figure(figsize=(8.5, 4.2 * len(found) + 0.5), layout="constrained")
    axes = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    handles, labels = [], []
    for axis, (score, cells) in zip(axes, found.items(), strict=True):
        for k, (name, curve) in enumerate(cells.items()):
            (line,) = axis.plot(
                100 * curve.false_positives, 100 * curve.true_positives, **look(k)
            )
            handles.append(line)
            labels.append(
                f"{name}: {score.replace('_', ' ')}, area {curve.area:.3f}, best "
                f"{'above' if curve.above else 'below'} {curve.threshold:.3g}"
            )
        axis.plot([0, 100], [0, 100], color="0.7", linewidth=0.8)
        axis.set_xlabel("benign clients flagged %")
        axis.set_ylabel(f"malicious flagged %, by {score.replace('_', ' ')}")
        axis.grid(alpha=0.3)
    place_legend(figure, handles, labels)
    return svg(figure)
