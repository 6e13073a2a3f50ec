"""Scores, their ROC, and danger zones as numbers for a page's charts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedjax_sim.pages.numbers import short
from fedjax_sim.reports.danger_zones import AXES, zones
from fedjax_sim.reports.roc import roc
from fedjax_sim.reports.scores import CellScores, bins
from fedjax_sim.reports.store import Row
from fedjax_sim.reports.tables import Table

_ROC_POINTS = 120


def scores_data(table: Table, found: Sequence[CellScores]) -> list[dict[str, Any]]:
    """A histogram and a ROC for each cell and score.

    The bars are shares of the benign and of the malicious values, which are finite;
    `undefined` is the percentage that is not. No `roc` without clients of both kinds.
    """
    data = []
    for row, column, score, scores in found:
        known = np.isfinite(scores.values)
        values, malicious = scores.values[known], scores.malicious[known]
        edges, logarithmic = bins(values)
        shares = {}
        for name, kind in (("benign", False), ("malicious", True)):
            own = values[malicious == kind]
            counts = np.histogram(own, edges)[0]
            shares[name] = [short(x, 3) for x in counts / max(len(own), 1)]
        one: dict[str, Any] = {
            "row": table.rows.index(row),
            "column": table.columns.index(column),
            "score": score.replace("_", " "),
            "edges": [short(x) for x in edges],
            "log": logarithmic,
            "undefined": short(100 * (1 - known.mean()), 3),
            **shares,
        }
        curve = roc(scores)
        if curve is not None:
            k = len(curve.false_positives)
            at = np.unique(np.linspace(0, k - 1, min(k, _ROC_POINTS)).round())
            at = at.astype(int)
            one["roc"] = {
                "x": [short(100 * x, 3) for x in curve.false_positives[at]],
                "y": [short(100 * x, 3) for x in curve.true_positives[at]],
                "area": short(curve.area),
                "threshold": short(curve.threshold, 3),
                "above": curve.above,
            }
        data.append(one)
    return data


def zones_data(
    runs: Sequence[Row], least_mta: float, least_asr: float
) -> dict[str, Any] | None:
    """The maps of danger zones; None unless learning rate and batch size vary."""
    maps = zones(runs)
    places = [place for one in maps for place in one.cells]
    if not places:
        return None
    rates, sizes, _ = (set(x) for x in zip(*places, strict=True))
    if len(rates) < 2 or len(sizes) < 2:
        return None
    cells = [
        {
            "map": one.name,
            **dict(zip(AXES, place, strict=True)),
            "mta": short(mta),
            "asr": short(asr),
            "useful": mta >= least_mta,
            "danger": mta >= least_mta and asr >= least_asr,
        }
        for one in maps
        for place, (mta, asr) in one.cells.items()
    ]
    return {"cells": cells, "mta": least_mta, "asr": least_asr}
