"""How rates move over rounds, with numbers worked out by hand."""

import numpy as np
import pytest

from fedjax_sim.metrics.over_rounds import consistency, mitigation


def test_mitigation_by_hand():
    """Above 50 in rounds 1 and 2, in 4, and from 7 on: the last one never ends."""
    success = np.array([10.0, 60.0, 70.0, 50.0, 51.0, 0.0, 50.0, 80.0, 90.0])
    found = mitigation(success, cycle=4)

    assert found.starts == [1, 4, 7]
    assert found.lengths == [2, 1, None]
    assert found.mean_rounds == 1.5
    assert found.by_phase == [
        pytest.approx((10 + 51 + 90) / 3),
        (60 + 0) / 2,
        (70 + 50) / 2,
        (50 + 80) / 2,
    ]
    assert found.recovery_rate == 1 / 1.5
    assert found.recovery_slope is None  # highest at the end of the cycle
    slope = mitigation(np.array([20.0, 80, 60, 40] * 2), cycle=4).recovery_slope
    assert slope == 20.0


@pytest.mark.parametrize(
    ("success", "starts", "lengths", "mean"),
    [
        ([0.0, 50.0], [], [], None),
        ([90.0, 80.0], [0], [None], None),
        ([90.0, 10.0], [0], [1], 1.0),
    ],
)
def test_episodes_at_the_ends_of_a_run(success, starts, lengths, mean):
    found = mitigation(np.array(success))

    assert found[:3] == (starts, lengths, mean)
    assert found.by_phase == success  # shorter than a cycle


def test_episodes_begin_above_the_given_threshold():
    assert mitigation(np.array([60.0, 80.0]), threshold=70.0).starts == [1]


def test_consistency_counts_rounds_of_acceptable_accuracy():
    """DROP's equations 2 and 3; round 2 is exactly at lambda, round 3 below."""
    mta, asr = [50.0, 80.0, 79.9, 95.0], [0.0, 70.0, 1.0, 90.0]

    assert consistency(mta, asr, 80.0) == (2, 70.0, 90.0)
    assert consistency(mta, asr, 79.9) == (3, 1.0, 90.0)
    assert consistency(mta, asr, 96.0) == (0, None, None)
