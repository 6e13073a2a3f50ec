"""The majority component, against HDBSCAN's definition and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from fedjax_sim.contracts.defense import included
from fedjax_sim.defenses.parts.majority_component import (
    majority_component,
    majority_members,
)

members = jax.jit(majority_members)


def on_a_line(points):
    points = np.asarray(points, np.float32)
    return jnp.asarray(np.abs(points[:, None] - points[None, :]))


def reference(distances):
    """Cuts the single-linkage tree at ever larger heights."""
    n = len(distances)
    tree = hierarchy.linkage(squareform(distances, checks=False), "single")
    for height in tree[:, 2]:
        labels = hierarchy.fcluster(tree, height, "distance")
        counts = np.bincount(labels)
        if counts.max() > n // 2:
            return labels == counts.argmax()
    raise AssertionError("no majority")


@pytest.mark.parametrize("n", [4, 11, 30])
@pytest.mark.parametrize("seed", range(3))
def test_members_against_single_linkage(n, seed):
    points = np.random.default_rng(seed).normal(size=(n, 3))
    points[: n // 3] += 2
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    actual = members(jnp.asarray(distances, jnp.float32), jnp.ones(n, bool))
    np.testing.assert_array_equal(actual, reference(distances))


def test_members_by_hand():
    # Three of five within steps of 1; the fourth is 2 away from them.
    line = on_a_line([0, 1, 2, 4, 9])
    assert members(line, jnp.ones(5, bool)).tolist() == [1, 1, 1, 0, 0]
    # Equal steps are taken together.
    line = on_a_line([0, 1, 2, 3, 9])
    assert members(line, jnp.ones(5, bool)).tolist() == [1, 1, 1, 1, 0]


def test_only_included_clients_connect():
    # Without the one in the middle, two and two; all four join at once.
    line = on_a_line([0, 1, 2, 3, 4])
    mask = jnp.array([1, 1, 0, 1, 1], bool)
    assert members(line, mask).tolist() == [1, 1, 0, 1, 1]
    assert members(line, mask & (jnp.arange(5) < 4)).tolist() == [1, 1, 0, 0, 0]


@pytest.mark.parametrize("m", [0, 1, 2])
def test_few_clients_are_all_members(m):
    mask = jnp.arange(4) < m
    np.testing.assert_array_equal(members(on_a_line([0, 5, 9, 30]), mask), mask)


@pytest.mark.parametrize("compare_rows", [False, True])
def test_identical_clients_are_admitted_together(
    make_cohort, make_context, compare_rows
):
    rng = np.random.default_rng(0)
    updates = rng.normal(size=(10, 5000)).astype("f4")
    updates[3:9] = updates[3]
    stage = majority_component(compare_rows=compare_rows)
    context = make_context(5000)._replace(
        global_params=jnp.asarray(30 * rng.normal(size=5000), jnp.float32)
    )
    _, judged = jax.jit(stage.apply)((), make_cohort(updates), context)
    assert np.flatnonzero(included(judged)).tolist() == list(range(3, 9))


def test_features_are_updates_or_models(make_cohort, make_context):
    # Nearly one direction from the origin of the updates, two of the models.
    updates = [[1.0, 0.0], [8.0, 0.1], [30.0, 0.0], [0.0, 1.0], [0.1, 1.0]]
    context = make_context(2)._replace(global_params=jnp.array([0.0, 5.0]))

    def kept(features):
        stage = majority_component(features=features)
        _, judged = stage.apply((), make_cohort(updates), context)
        return np.flatnonzero(included(judged)).tolist()

    assert kept("updates") == [0, 1, 2]
    assert kept("models") == [0, 3, 4]
