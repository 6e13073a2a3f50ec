"""RLR: where the mean is turned round."""

import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.rlr import rlr

# Signs add up to 3, 1, -3 and 2.
UPDATES = [[1.0, 1, -1, 1], [2.0, 1, -1, 0], [3.0, -8, -4, 2]]


def test_signs_of_the_mean_by_hand(one_round):
    _, result = one_round(rlr(threshold=3), UPDATES, buffers=[[1.0], [2.0], [6.0]])
    assert result.update.tolist() == [2, 2, -2, -1]
    assert result.buffers.tolist() == [3]


def test_a_threshold_that_is_reached_is_enough(one_round):
    _, result = one_round(rlr(threshold=2), UPDATES)
    assert result.update.tolist() == [2, 2, -2, 1]


def test_absent_clients_have_no_vote(one_round):
    _, result = one_round(rlr(threshold=2), UPDATES, weights=[1, 1, 0])
    assert result.update.tolist() == [1.5, 1, -1, -0.5]


def test_thresholds_that_no_cohort_can_use(make_spec):
    with pytest.raises(InputError, match="threshold = 0 must be at least 1"):
        rlr(threshold=0)
    with pytest.raises(InputError, match="threshold = 4 must lie between 1 and 3"):
        rlr(threshold=4).init(make_spec(3))
