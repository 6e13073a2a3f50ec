"""Exact k-means of numbers, against all partitions, and the gap statistic."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.numerics.gap_statistic import gap_statistic
from fedjax_sim.numerics.kmeans_1d import upper_cluster, within_sums


def best_partition(values, k):
    """The least sum of squares over all ways to cut the sorted values into k runs."""
    values = np.sort(values)
    best = np.inf
    for cuts in itertools.combinations(range(1, len(values)), k - 1):
        runs = np.split(values, cuts)
        best = min(best, sum(((run - run.mean()) ** 2).sum() for run in runs))
    return best


@pytest.mark.parametrize("seed", range(3))
def test_sums_are_the_least_of_all_partitions(seed):
    values = np.random.default_rng(seed).normal(size=9).astype("f4")
    expected = [best_partition(values.astype(float), k) for k in range(1, 8)]
    actual = jax.jit(within_sums, static_argnums=1)(values, 7)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-7)


def test_tight_clusters_far_apart_keep_their_small_sums():
    rng = np.random.default_rng(4)
    values = np.concatenate(
        [1e-4 * rng.normal(size=20), 1 + 1e-4 * rng.normal(size=20)]
    )
    values = values.astype("f4").astype(float)
    expected = sum(
        ((run - run.mean()) ** 2).sum() for run in (values[:20], values[20:])
    )
    actual = within_sums(jnp.asarray(values, jnp.float32), 2)[1]
    np.testing.assert_allclose(actual, expected, rtol=1e-2)


def test_more_clusters_than_different_values():
    sums = within_sums(jnp.array([1.0, 5.0, 1.0]), 4)
    assert sums[1:].tolist() == [0, 0, 0]


def test_upper_cluster_by_hand():
    values = jnp.array([7.0, 1.0, 2.0, 9.0, 1.5])
    assert upper_cluster(values).tolist() == [True, False, False, True, False]
    ties = jnp.array([3.0, 0.0, 3.0, 0.1])
    assert upper_cluster(ties).tolist() == [True, False, True, False]
    assert not upper_cluster(jnp.full(4, 0.3)).any()


def number_of_clusters(values):
    references = jax.random.uniform(jax.random.key(0), (10, len(values)))
    gap = jax.jit(gap_statistic)(jnp.asarray(values, jnp.float32), references)
    return int(gap.num_clusters)


def test_gap_statistic_tells_clusters_from_a_spread():
    rng = np.random.default_rng(0)
    spread = np.linspace(0, 1, 40)
    assert number_of_clusters(spread) == 1
    clusters = np.concatenate([rng.normal(size=20), 30 + rng.normal(size=20)])
    assert number_of_clusters(clusters) == 2
    assert number_of_clusters(1e-3 * clusters + 5) == 2


def test_gap_statistic_of_equal_values():
    assert number_of_clusters(np.full(20, 0.05)) == 1
