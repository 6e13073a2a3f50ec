"""The IQR filter: distances, fence and the cases that are not judged."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.iqr_filter import above_fence, iqr_filter, mean_distances

LINE = [[0.0], [1.0], [2.0], [3.0], [40.0]]


def test_mean_distances_and_fence_by_hand(one_round, survivors):
    judged, result = one_round(iqr_filter(), LINE)
    distances = judged.scores["mean_distance"]
    np.testing.assert_allclose(distances, [11.5, 10.75, 10.5, 10.75, 38.5], rtol=1e-4)
    # Quartiles 10.75 and 11.5: fence 12.625.
    assert survivors(judged) == [0, 1, 2, 3]
    np.testing.assert_allclose(result.update, [1.5], rtol=1e-6)


def test_a_larger_k_excludes_nobody(one_round, survivors):
    judged, _ = one_round(iqr_filter(iqr_k=50.0), LINE)
    assert survivors(judged) == [0, 1, 2, 3, 4]


def test_fewer_than_four_are_not_judged(one_round, survivors):
    judged, _ = one_round(iqr_filter(iqr_k=0.0), LINE, weights=[1, 1, 0, 0, 1])
    assert survivors(judged) == [0, 1, 4]


def test_updates_beyond_float32_stand_out(one_round, survivors):
    updates = np.random.default_rng(0).normal(size=(9, 20))
    updates[3] *= 1e30
    judged, _ = one_round(iqr_filter(), updates)
    assert 3 not in survivors(judged)
    assert len(survivors(judged)) == 8


def test_distances_against_numpy():
    rows = np.random.default_rng(1).normal(size=(6, 30)).astype("f4")
    mask = np.array([1, 1, 0, 1, 1, 1], bool)
    gaps = np.linalg.norm(rows[:, None] - rows[None, mask], axis=-1)
    actual, unit = mean_distances(jnp.asarray(rows), jnp.asarray(mask))
    np.testing.assert_allclose(unit * actual[mask], gaps[mask].sum(1) / 4, rtol=1e-5)


def test_constant_values_have_no_outlier():
    values = jnp.full(5, 0.3)
    assert not above_fence(values, jnp.ones(5, bool), 0.0).any()


def test_a_bad_argument_is_refused():
    with pytest.raises(InputError, match=r"iqr_k = -0.5 must be at least 0"):
        iqr_filter(iqr_k=-0.5)
