"""Clusterings on the device against scikit-learn's, and against every cut tried."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import cluster

from fedjax_sim.numerics.dbscan import dbscan
from fedjax_sim.numerics.hdbscan import hdbscan
from fedjax_sim.numerics.kmeans_gap import cluster_by_gap, kmeans
from fedjax_sim.numerics.mean_shift import estimate_bandwidth, mean_shift
from fedjax_sim.numerics.two_means import two_means

EVERY = jnp.ones(18, bool)


def blobs(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = 4 * rng.normal(size=(3, 2))
    return (centres[rng.integers(0, 3, 18)] + rng.normal(size=(18, 2))).astype("f4")


def distances(points: np.ndarray) -> jnp.ndarray:
    return jnp.asarray(np.linalg.norm(points[:, None] - points[None], axis=-1))


def assert_same(labels, expected) -> None:
    labels, expected = np.asarray(labels), np.asarray(expected)
    np.testing.assert_array_equal(labels < 0, expected < 0)
    together, wanted = (x[:, None] == x[None, :] for x in (labels, expected))
    np.testing.assert_array_equal(together, wanted)


@pytest.mark.parametrize("seed", range(6))
def test_dbscan_and_mean_shift_are_scikit_learns(seed):
    points = blobs(seed)
    expected = cluster.DBSCAN(eps=1.1, min_samples=4).fit_predict(points)
    assert_same(dbscan(distances(points), EVERY, 1.1, 4), expected)
    width = cluster.estimate_bandwidth(points, quantile=0.3)
    assert estimate_bandwidth(points, EVERY, 0.3) == pytest.approx(width, rel=1e-5)
    shift = cluster.MeanShift(bandwidth=width, bin_seeding=True, cluster_all=False)
    assert_same(
        mean_shift(points, EVERY, jnp.float32(width)), shift.fit_predict(points)
    )


def test_hdbscan_does_not_see_points_that_do_not_count():
    points = np.concatenate([blobs(1), blobs(2) + 40])
    mask = np.arange(36) < 18
    apart = np.array(distances(points))
    apart[~mask] = apart[:, ~mask] = np.nan
    found = hdbscan(jnp.asarray(apart), jnp.asarray(mask), min_cluster_size=4)
    alone = hdbscan(distances(points[:18]), EVERY, min_cluster_size=4)
    np.testing.assert_array_equal(found[:18], alone)
    assert (found[18:] == -1).all() and alone.max() >= 1


def test_two_means_finds_the_best_cut_of_each_column():
    rows = np.random.default_rng(3).normal(size=(7, 5)).astype("f4")
    rows[:, 4] = 2.0  # all equal: no clusters
    mask = np.arange(7) != 2
    found = two_means(jnp.asarray(rows), jnp.asarray(mask))
    for k, values in enumerate(rows[mask].T[:4]):
        ordered = np.sort(values)
        costs = [
            sum(part.var() * len(part) for part in np.split(ordered, [cut]))
            for cut in range(1, 6)
        ]
        cut = 1 + int(np.argmin(costs))
        assert found.lower[mask, k].sum() == cut
        assert (values[np.asarray(found.lower)[mask, k]] <= ordered[cut - 1]).all()
        gap = ordered[cut:].mean() - ordered[:cut].mean()
        assert found.gap[k] == pytest.approx(gap, rel=1e-5)
    assert found.gap[4] == 0 and not found.lower[2].any()


def test_the_gap_statistic_finds_three_blobs():
    rng = np.random.default_rng(0)
    centres = np.repeat([[0, 0], [9, 0], [0, 9]], 6, axis=0)
    points = jnp.asarray(centres + 0.3 * rng.normal(size=(18, 2)), jnp.float32)
    draws = jnp.asarray(rng.uniform(size=(5, 18, 2)), jnp.float32)
    assert_same(cluster_by_gap(points, EVERY, draws), np.repeat([0, 1, 2], 6))
    labels, total = kmeans(points, EVERY, jnp.int32(3))
    assert_same(labels, np.repeat([0, 1, 2], 6))
    assert total < 18
