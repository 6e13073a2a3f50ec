"""Ward clusters: labels, ties and odd input."""

import jax
import numpy as np
import pytest
from scipy.cluster import hierarchy

from fedjax_sim.defenses.parts.ward_clusters import (
    ward_clusters,
    ward_labels,
    ward_labels_on_device,
)


def labels_of(points, mask=None, ids=None):
    points = np.asarray(points, np.float64)
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    n = len(points)
    return ward_labels(
        distances.astype(np.float32),
        np.ones(n, bool) if mask is None else np.asarray(mask),
        np.arange(n) if ids is None else np.asarray(ids),
    ).tolist()


@pytest.fixture
def judge(make_cohort, make_context, make_spec):
    """Returns a function to the suspicious and the surviving clients' rows."""

    def run(updates, ids=None, weights=None):
        cohort = make_cohort(updates, ids, weights)
        stage = ward_clusters()
        state = stage.init(make_spec(len(updates)))
        d = cohort.updates.shape[1]
        _, judged = jax.jit(stage.apply)(state, cohort, make_context(d))
        return (
            np.flatnonzero(judged.scores["suspicious"]).tolist(),
            np.flatnonzero(judged.weights).tolist(),
        )

    return run


def test_labels_by_hand():
    # {0, 1} merges at 1, {5, 7} at 2, so the node of rows 2 and 3 is the larger one.
    assert labels_of([[0.0], [1], [5], [7]]) == [1, 1, 0, 0]
    assert labels_of([[5.0], [7], [0], [1]]) == [0, 0, 1, 1]
    # The three near points are the last node but one, the outlier is a point.
    assert labels_of([[0.0], [1], [50], [2]]) == [0, 0, 1, 0]


def test_equal_sizes_keep_the_tighter_cluster(judge):
    assert judge([[0.0], [1], [5], [7]]) == ([2, 3], [0, 1])
    assert judge([[5.0], [7], [0], [1]]) == ([0, 1], [2, 3])


def test_the_smaller_cluster_is_suspicious(judge):
    assert judge([[0.0], [1], [50], [2]]) == ([2], [0, 1, 3])


def test_identical_updates_single_out_the_largest_id(judge):
    assert judge(np.ones((5, 3))) == ([4], [0, 1, 2, 3])
    assert judge(np.ones((5, 3)), ids=[3, 9, 1, 4, 5]) == ([1], [0, 2, 3, 4])


def test_fewer_than_three_clients_are_not_judged(judge):
    assert judge([[0.0], [9]]) == ([], [0, 1])
    assert judge([[0.0], [9], [1], [2]], weights=[1, 1, 0, 0]) == ([], [0, 1])
    assert labels_of([[0.0], [9]]) == [-1, -1]


def test_excluded_clients_are_not_clustered(judge):
    updates = [[0.0], [1], [50], [2], [1e6]]
    assert judge(updates, weights=[1, 1, 1, 1, 0]) == ([2], [0, 1, 3])
    assert labels_of(updates, mask=[1, 1, 1, 1, 0])[-1] == -1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [3, 10, 25])
def test_clusters_are_those_of_scipy(n, seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 20))
    points[: n // 3] += 1.0
    tree = hierarchy.linkage(points, "ward")
    flat = hierarchy.fcluster(tree, 2, "maxclust")
    labels = np.array(labels_of(points))
    partition = {frozenset(np.flatnonzero(flat == c)) for c in (1, 2)}
    assert {frozenset(np.flatnonzero(labels == c)) for c in (0, 1)} == partition


@pytest.mark.parametrize("value", [0.0, np.inf, np.nan, 3e38, 1e-45])
def test_odd_distances_never_raise(value):
    distances = np.full((6, 6), value, np.float32)
    np.fill_diagonal(distances, 0)
    labels = ward_labels(distances, np.ones(6, bool), np.arange(6))
    assert set(labels.tolist()) == {0, 1}


@pytest.mark.parametrize("value", [0.0, 1.0, np.inf, np.nan])
def test_the_device_clusters_as_the_host(value):
    """With odd distances, clients left out, and ids in any order."""
    rng = np.random.default_rng(0)
    distances = np.abs(rng.integers(-2, 3, (8, 8))).astype(np.float32)
    distances = np.where(distances == 2, np.float32(value), distances)
    distances = np.triu(distances, 1) + np.triu(distances, 1).T
    for mask in (np.ones(8, bool), np.arange(8) != 3, np.arange(8) < 2):
        ids = rng.permutation(50)[:8].astype(np.int32)
        expected = ward_labels(distances, mask, ids)
        found = _on_device(distances, mask, ids)
        np.testing.assert_array_equal(found, expected)


_on_device = jax.jit(ward_labels_on_device)


@pytest.mark.parametrize("linkage", ["scipy", "device"])
def test_who_clusters_may_be_chosen(linkage, make_cohort, make_context):
    cohort = make_cohort([[0.0], [1], [50], [2], [1], [0], [3], [1]])
    program = jax.jit(ward_clusters(linkage).apply).trace((), cohort, make_context(1))
    assert ("callback" in str(program.jaxpr)) == (linkage == "scipy")
    _, judged = program.lower().compile()((), cohort, make_context(1))
    assert judged.scores["suspicious"].tolist() == [i == 2 for i in range(8)]


def test_one_client_beyond_the_range_of_floats(judge):
    updates = np.random.default_rng(0).normal(size=(6, 4))
    updates[2] = 1e30
    assert judge(updates)[0] == [2]


def test_several_seeds_at_once(make_cohort, make_context):
    cohort = make_cohort([[0.0], [1], [50], [2]])
    both = jax.tree.map(lambda x: np.stack([x, np.roll(x, 1, axis=0)]), cohort)
    stage = ward_clusters()
    apply = jax.vmap(lambda c: stage.apply((), c, make_context(1))[1])
    suspicious = jax.jit(apply)(both).scores["suspicious"]
    assert suspicious.tolist() == [[False, False, True, False], [False] * 3 + [True]]
