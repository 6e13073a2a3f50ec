"""Who was flagged, and who should have been. Rates are percentages.

A client is *positive* if it is malicious and attacks in this round, and *flagged* if
its weight in the aggregate is 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Detection(NamedTuple):
    """Sums over clients and rounds: who was flagged, who was malicious."""

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    true_negatives: int = 0

    def __add__(self, other: "Detection") -> "Detection":  # type: ignore[override]
        return Detection(*(a + b for a, b in zip(self, other, strict=True)))

    def row(self) -> dict[str, float | int | None]:
        """The counts, and the rates in percent (None where undefined)."""
        tp, fp, fn, tn = self

        def rate(part: int, whole: int) -> float | None:
            return 100.0 * part / whole if whole else None

        return {
            "true_positives": tp,
            "false_positives": fp,
            "false_negatives": fn,
            "true_negatives": tn,
            "detection_accuracy": rate(tp + tn, sum(self)),
            "false_positive_rate": rate(fp, fp + tn),
            "false_negative_rate": rate(fn, fn + tp),
        }


def detection(
    flagged: np.ndarray, malicious: np.ndarray, present: np.ndarray
) -> Detection:
    """Counts one round; bool [n] each."""
    return Detection(
        int((flagged & malicious & present).sum()),
        int((flagged & ~malicious & present).sum()),
        int((~flagged & malicious & present).sum()),
        int((~flagged & ~malicious & present).sum()),
    )


def detection_history(
    rounds: Sequence[Mapping[str, Any]],
    malicious: np.ndarray,
    expelled: np.ndarray | None,
) -> dict[str, float | int | None]:
    """The detection metrics of a whole run (FedREDefense, A.4, B.1 and B.3).

    Args:
      rounds: rows of rounds.jsonl.
      malicious: bool [N], the fixed set.
      expelled: bool [N], who may not take part any more; None: the defence expels
        nobody, its labels are those of each round.

    Returns:
      dacc, fpr, fnr: of the final labels over the population (None without expulsion);
      adacc, afpr, afnr: of the labels of each round, averaged over rounds;
      aar: rounds in which a malicious client was part of the aggregate, averaged over
      the malicious clients; aoi: outer iterations of a client in a round, averaged over
      clients, then rounds (None for defences that do not iterate);
      reconstruction_error_benign, ..._malicious, and with _std: mean and standard
      deviation over all clients of a kind in all rounds (Table 10; None for defences
      that do not reconstruct; an error that is no number is left out).
    """
    ids = np.flatnonzero(malicious)
    each, counted, iterations = [], 0, []
    errors: dict[str, list[float]] = {"benign": [], "malicious": []}
    for row in rounds:
        clients = np.array(row["clients"], int)
        excluded, bad = np.isin(clients, row["excluded"]), np.isin(clients, ids)
        each.append(detection(excluded, bad, np.ones(len(clients), bool)).row())
        counted += int((bad & ~excluded).sum())
        if "iterations" in row["scores"] and len(clients):
            iterations.append(np.mean(row["scores"]["iterations"]))
        if "reconstruction_error" in row["scores"]:
            measured = row["scores"]["reconstruction_error"]
            for error, attacker in zip(measured, bad, strict=True):
                if error is not None:
                    errors["malicious" if attacker else "benign"].append(error)
    names = {
        "dacc": "detection_accuracy",
        "fpr": "false_positive_rate",
        "fnr": "false_negative_rate",
    }
    final: dict[str, float | int | None] = dict.fromkeys(names)
    if expelled is not None:
        row = detection(expelled, malicious, np.ones(len(malicious), bool)).row()
        final = {short: row[name] for short, name in names.items()}

    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    return {
        **final,
        **{
            f"a{short}": mean(row[name] for row in each)
            for short, name in names.items()
        },
        "aar": counted / len(ids) if len(ids) else None,
        "aoi": mean(iterations),
        **_spread(errors),
    }


def _spread(errors: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    """Mean and standard deviation of the reconstruction errors, by kind of client."""
    found: dict[str, float | None] = {}
    for kind, values in errors.items():
        name = f"reconstruction_error_{kind}"
        found[name] = float(np.mean(values)) if values else None
        found[f"{name}_std"] = float(np.std(values)) if values else None
    return found
