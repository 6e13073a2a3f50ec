"""Who was flagged: every definition with numbers worked out by hand."""

import numpy as np
import pytest

from fedjax_sim.metrics.detection import Detection, detection, detection_history


def test_detection_counts_present_clients():
    flagged = np.array([1, 1, 0, 0, 1, 0, 1], bool)
    malicious = np.array([1, 0, 1, 0, 1, 0, 0], bool)
    present = np.array([1, 1, 1, 1, 0, 0, 1], bool)
    assert detection(flagged, malicious, present) == Detection(1, 2, 1, 1)


def test_detection_adds_up_and_gives_rates():
    total = Detection(1, 2, 1, 1) + Detection(2, 0, 0, 3)
    assert total == Detection(3, 2, 1, 4)
    assert sum([total, total], Detection()) == Detection(6, 4, 2, 8)
    assert total.row() == {
        "true_positives": 3,
        "false_positives": 2,
        "false_negatives": 1,
        "true_negatives": 4,
        "detection_accuracy": 70.0,
        "false_positive_rate": pytest.approx(100 / 3),
        "false_negative_rate": 25.0,
    }


def test_rates_of_nothing_are_undefined():
    row = Detection(0, 0, 0, 5).row()
    assert row["false_negative_rate"] is None
    assert (row["detection_accuracy"], row["false_positive_rate"]) == (100.0, 0.0)
    assert Detection().row()["detection_accuracy"] is None


def round_row(clients, excluded, iterations=None):
    scores = {} if iterations is None else {"iterations": iterations}
    return {"clients": clients, "excluded": excluded, "scores": scores}


# Five clients, 1 and 3 malicious. By rounds: one of two found, none of one found and a
# benign one flagged, nobody malicious there.
HISTORY = [
    round_row([0, 1, 2, 3], [1]),
    round_row([0, 3, 4], [4]),
    round_row([0, 2], []),
]
MALICIOUS = np.array([0, 1, 0, 1, 0], bool)


def test_detection_history_by_hand():
    found = detection_history(HISTORY, MALICIOUS, None)

    assert found == {
        "dacc": None,  # nobody is expelled
        "fpr": None,
        "fnr": None,
        "adacc": pytest.approx((75 + 100 / 3 + 100) / 3),
        "afpr": pytest.approx((0 + 50 + 0) / 3),
        "afnr": pytest.approx((50 + 100) / 2),  # the third round has none to miss
        "aar": 1.0,  # client 3 twice, client 1 never
        "aoi": None,
        "reconstruction_error_benign": None,
        "reconstruction_error_benign_std": None,
        "reconstruction_error_malicious": None,
        "reconstruction_error_malicious_std": None,
    }


def test_labels_of_expelled_clients_count_once():
    expelled = np.array([0, 1, 1, 0, 0], bool)
    found = detection_history(HISTORY, MALICIOUS, expelled)

    assert found["dacc"] == 60.0
    assert found["fpr"] == pytest.approx(100 / 3)
    assert found["fnr"] == 50.0
    assert found["adacc"] == detection_history(HISTORY, MALICIOUS, None)["adacc"]


def test_iterations_are_averaged_over_clients_then_rounds():
    rows = [round_row([0, 1], [], [4, 8]), round_row([2], [], [1]), round_row([], [])]

    assert detection_history(rows, MALICIOUS, None)["aoi"] == (6 + 1) / 2


def test_reconstruction_errors_of_benign_and_malicious_clients():
    rows = [round_row([0, 1, 3], []), round_row([1, 2], []), round_row([], [])]
    for row, errors in zip(rows, ([0.2, 0.9, None], [1.1, 0.6], []), strict=True):
        row["scores"]["reconstruction_error"] = errors
    found = detection_history(rows, MALICIOUS, None)

    assert found["reconstruction_error_benign"] == pytest.approx(0.4)
    assert found["reconstruction_error_benign_std"] == pytest.approx(0.2)
    assert found["reconstruction_error_malicious"] == pytest.approx(1.0)
    assert found["reconstruction_error_malicious_std"] == pytest.approx(0.1)


def test_history_of_nothing():
    clean = np.zeros(5, bool)
    found = detection_history([], MALICIOUS, None)
    undisturbed = detection_history(HISTORY, clean, None)

    assert found["adacc"] is None and found["aar"] == 0.0
    assert undisturbed["aar"] is None and undisturbed["afnr"] is None
