"""Distances of nearly equal rows, and what rounding must not decide."""

import jax.numpy as jnp
import numpy as np

from fedjax_sim.numerics.common_part import (
    close_distances,
    span_distances,
    without_noise,
)
from fedjax_sim.numerics.distances import pairwise_distances
from fedjax_sim.numerics.gram import gram
from fedjax_sim.numerics.nearest_values import mean_near_median, mean_of_nearest
from fedjax_sim.numerics.order_statistics import median

N = 7
EVERY, ORDER = jnp.ones(N, bool), jnp.arange(N)


def nearly_equal() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (100 * rng.normal(size=40) + 1e-2 * rng.normal(size=(N, 40))).astype("f4")


def exact(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(float)
    return np.linalg.norm(rows[:, None] - rows[None], axis=-1)


def test_a_large_common_part_costs_no_digits():
    rows = nearly_equal()
    found, wanted = np.asarray(close_distances(rows, EVERY, ORDER)), exact(rows)
    unit = found[0, 1] / wanted[0, 1]
    np.testing.assert_allclose(found, unit * wanted, rtol=1e-3)
    # What is lost without it.
    assert not np.allclose(pairwise_distances(rows), wanted, rtol=0.2)


def test_an_outlier_costs_the_others_no_digits():
    rows = nearly_equal()
    rows[3] = 3e30
    found, wanted = np.asarray(close_distances(rows, EVERY, ORDER)), exact(rows)
    others = np.delete(np.arange(N), 3)
    near = np.ix_(others, others)
    np.testing.assert_allclose(
        found[near], found[0, 1] / wanted[0, 1] * wanted[near], rtol=1e-3
    )
    assert (found[3, others] > 1e3 * found[near].max()).all()


def test_equal_rows_are_equally_far_from_every_other():
    rows = nearly_equal()
    rows[5] = rows[1]
    for order in (ORDER, ORDER[::-1]):
        found = np.asarray(close_distances(rows, EVERY, order))
        assert found[1, 5] == 0
        others = [0, 2, 3, 4, 6]
        np.testing.assert_array_equal(found[1, others], found[5, others])


def test_only_rounding_makes_no_difference():
    values = jnp.array([2.0, 1.0, 1.0 + 2**-22, 1.0 + 2**-21, 1.1, 0.0])
    np.testing.assert_array_equal(
        without_noise(values), jnp.array([2.0, 1.0, 1.0, 1.0, 1.1, 0.0])
    )


def test_the_last_place_goes_to_the_first_row():
    # 1 and 3 are equally near to 2; the centre itself is nearest.
    rows = jnp.array([[3.0], [2.0], [1.0]])
    mask, centre = jnp.ones(3, bool), jnp.array([2.0])
    for order, expected in (([0, 1, 2], 2.5), ([2, 1, 0], 1.5)):
        found = mean_of_nearest(rows, mask, centre, 2, jnp.array(order))
        np.testing.assert_allclose(found, [expected])


def test_ties_at_the_median_are_decided_in_every_column():
    """Integers tie in nearly all of more columns than are looked at together."""
    rng = np.random.default_rng(1)
    rows = jnp.asarray(rng.integers(-2, 3, (N, 600)), jnp.float32)
    mask, order = EVERY.at[2].set(False), ORDER[::-1]
    for count in (1, 3, 4):
        found = mean_near_median(rows, mask, count, order)
        wanted = mean_of_nearest(rows, mask, median(rows, mask), count, order)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    other = mean_near_median(rows, mask, 3, ORDER)
    assert not np.allclose(other, mean_near_median(rows, mask, 3, order))


def test_distances_to_a_mean_follow_from_products():
    rows = np.random.default_rng(2).normal(size=(N, 30)).astype("f4")
    weights = jnp.arange(1.0, N + 1) / 28
    distances = span_distances(gram(jnp.asarray(rows)), EVERY, 0.5)
    found, exact = distances(weights)
    wanted = np.linalg.norm(rows - np.asarray(weights) @ rows, axis=1)
    np.testing.assert_allclose(found, 0.5 * wanted, rtol=1e-5)
    assert exact
    # At a row itself nothing but rounding errors is left of its distance.
    assert not distances(jnp.eye(N)[3] * 0.9999 + 0.0001 / N)[1]
