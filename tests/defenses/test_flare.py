"""FLARE: discrepancies of features, neighbours and trust."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.contracts.defense import RootRequest
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.flare import (
    client_features,
    discrepancies,
    flare,
    times_chosen,
    with_trust,
)


def reference(features, width):
    """The unbiased discrepancies in plain double-precision NumPy."""
    n, m, _ = features.shape
    kernel = lambda x, y: np.exp(
        -((x[:, None] - y[None]) ** 2).sum(-1) / (2 * width**2)
    )
    within = [(kernel(x, x).sum() - m) / (m * (m - 1)) for x in features]
    return np.array(
        [
            [
                within[i] + within[j] - 2 * kernel(features[i], features[j]).mean()
                for j in range(n)
            ]
            for i in range(n)
        ]
    )


@pytest.mark.parametrize("width", [1.0, 2.5])
def test_discrepancies_against_numpy(width):
    features = np.random.default_rng(0).normal(size=(4, 12, 3)).astype("f4")
    features[2] += 1
    actual = np.array(jax.jit(discrepancies)(features, width))
    expected = reference(features.astype(float), width)
    off = ~np.eye(4, dtype=bool)
    np.testing.assert_allclose(actual[off], expected[off], atol=1e-6)


def test_features_of_no_number_are_far_away():
    features = np.random.default_rng(0).normal(size=(3, 5, 2)).astype("f4")
    features[1] = np.nan
    actual = np.asarray(discrepancies(jnp.asarray(features), 1.0))
    assert np.isinf(actual[1]).all()
    assert np.isfinite(actual[0, 2])


def test_neighbours_are_the_nearest_half():
    points = np.array([0.0, 1, 3, 7, 20])
    distances = jnp.asarray(np.abs(points[:, None] - points[None]), jnp.float32)
    every = jnp.ones(5, bool)
    # Two of four each: 12, 02, 10, 21, 32.
    assert times_chosen(distances, every, jnp.arange(5)).tolist() == [2, 3, 4, 1, 0]
    # Without the third, two each of 0, 1, 3, 4: 13, 03, 10, 31.
    mask = every.at[2].set(False)
    assert times_chosen(distances, mask, jnp.arange(5)).tolist() == [2, 3, 0, 3, 0]


def test_equally_near_clients_go_by_id():
    ids = jnp.array([4, 2, 8, 6])
    chosen = times_chosen(jnp.zeros((4, 4)), jnp.ones(4, bool), ids)
    # Everybody chooses the two smallest other ids.
    assert chosen.tolist() == [3, 3, 0, 2]


def test_trust_is_a_softmax(make_cohort):
    cohort = make_cohort(np.zeros((4, 2)), weights=[1, 1, 0, 1])
    judged = with_trust(cohort, jnp.array([2, 0, 9, 1]), 2.0)
    expected = np.exp([1, 0, 0.5])
    np.testing.assert_allclose(
        judged.weights[jnp.array([0, 1, 3])], expected / expected.sum(), rtol=1e-5
    )
    assert judged.weights[2] == 0


@pytest.mark.parametrize("m", [6, 300])
def test_features_in_batches_are_those_of_the_whole(
    make_cohort, make_context, make_network, root, m
):
    network = make_network()
    d = network.layout.size
    images = jax.random.normal(jax.random.key(0), (m, *network.image_shape))
    context = make_context(d)._replace(
        network=network, root=root._replace(images=images)
    )
    cohort = make_cohort(np.random.default_rng(0).normal(size=(3, d)))
    features = client_features(cohort, context)
    assert features.shape == (3, m, 3)
    for i in range(3):
        params = context.global_params + cohort.updates[i]
        expected = network.features(params, cohort.buffers[i], images)
        np.testing.assert_allclose(features[i], expected, rtol=1e-5, atol=1e-6)


def test_an_outlier_loses_its_weight(make_context, make_network, root, one_round):
    network = make_network()
    d = network.layout.size
    updates = 0.01 * np.random.default_rng(0).normal(size=(6, d))
    updates[4] += 5
    judged, result = one_round(
        flare(), updates, context={"network": network, "root": root}
    )
    trust = np.asarray(judged.scores["trust"])
    assert trust[4] == trust.min() < 0.05
    np.testing.assert_allclose(result.update, judged.weights @ updates, rtol=1e-4)


def test_authors_train_before_the_first_round(root):
    assert flare().start is None
    defense = flare(variant="authors", num_samples=50)
    assert defense.root == RootRequest(
        50, augmented=True, momentum=0.9, weight_decay=0.005
    )
    model = GlobalModel(jnp.ones(3), jnp.ones(1))
    trained = defense.start(model, root, jax.random.key(0))
    expected = root.train(model, None)
    np.testing.assert_array_equal(trained.params, expected.params)


@pytest.mark.parametrize(
    ("key", "value"), [("num_samples", 1), ("temperature", 0.0), ("kernel_width", 0.0)]
)
def test_bad_arguments_are_refused(key, value):
    with pytest.raises(InputError, match=f"config.defense.{key} = {value} must"):
        flare(**{key: value})


def test_discrepancies_do_not_depend_on_the_rows_of_the_cohort():
    """To the bit: a half is counted, and rounding would decide who belongs to it."""
    draws = np.random.default_rng(0)
    features = draws.normal(size=(6, 7, 3)).astype(np.float32)
    ids = np.array([4, 9, 2, 7, 1, 5])
    there = discrepancies(features, 1.0, jnp.argsort(ids))
    moved = draws.permutation(6)
    here = discrepancies(features[moved], 1.0, jnp.argsort(ids[moved]))
    np.testing.assert_array_equal(here, np.asarray(there)[np.ix_(moved, moved)])
