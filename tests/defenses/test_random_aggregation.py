"""Random weights: their distribution, and what they depend on."""

import jax
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.random_aggregation import random_aggregation


@pytest.fixture
def weights(one_round):
    def draw(round_=1, ids=None, **arguments):
        n = 300 if ids is None else len(ids)
        judged, result = one_round(
            random_aggregation(**arguments),
            np.eye(n, 1),
            ids=ids,
            context={"key": jax.random.key(round_)},
        )
        weights = np.asarray(judged.weights)
        np.testing.assert_allclose(result.update, weights[:1], rtol=1e-5)
        return weights

    return draw


def test_draws_are_uniform_and_fresh(weights):
    drawn = weights()
    np.testing.assert_allclose(drawn.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(
        np.sort(drawn) / drawn.max(), np.arange(300) / 300, atol=0.08
    )
    assert abs(np.corrcoef(drawn, weights(round_=2))[0, 1]) < 0.2


def test_softmax_of_the_draws(weights):
    drawn = weights(normalization="softmax")
    np.testing.assert_allclose(drawn.sum(), 1, rtol=1e-5)
    assert 2.4 < drawn.max() / drawn.min() < np.e


def test_only_the_largest_draws_keep_weight(weights):
    some, every = weights(num_selected=20), weights()
    kept = np.argsort(every)[-20:]
    assert set(np.flatnonzero(some)) == set(kept)
    np.testing.assert_allclose(some[kept], every[kept] / every[kept].sum(), rtol=1e-4)


def test_a_draw_belongs_to_its_client(weights):
    np.testing.assert_array_equal(
        weights(ids=[3, 9, 5]), weights(ids=[9, 5, 3])[[2, 0, 1]]
    )


@pytest.mark.slow
def test_each_layer_has_draws_of_its_own(one_round, make_network):
    """The clients send unit vectors: every coordinate of the mean is a weight."""
    network = make_network(5)
    size, n = network.layout.size, 200

    def means(**arguments):
        _, result = one_round(
            random_aggregation(per_layer=True, **arguments),
            np.repeat(np.eye(n)[:, :1], size, axis=1),
            buffers=np.repeat(np.eye(n)[:, :1], 5, axis=1),
            context={"network": network},
        )
        return np.asarray(result.update), np.asarray(result.buffers)

    update, statistics = means()
    layers = np.split(update, network.layout.offsets[1:-1])
    firsts = [layer[0] for layer in (*layers, statistics)]
    for first, layer in zip(firsts, (*layers, statistics), strict=True):
        np.testing.assert_allclose(layer, first, rtol=1e-5)
    assert len({f"{first:.3e}" for first in firsts}) == len(firsts) > 3
    some = np.stack([means(num_selected=k)[0] for k in (1, n)])
    assert set(np.unique(some[0])) <= {0.0, 1.0}
    np.testing.assert_allclose(some[1], update, rtol=1e-5)


def test_the_weights_of_a_layer_are_a_mean(one_round, make_network):
    network = make_network()
    _, result = one_round(
        random_aggregation(per_layer=True, num_selected=4),
        np.ones((9, network.layout.size)),
        context={"network": network},
    )
    np.testing.assert_allclose(result.update, 1.0, rtol=1e-5)
    assert result.buffers.shape == (0,)


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="did you mean 'softmax'"):
        random_aggregation(normalization="softmx")
    with pytest.raises(InputError, match=r"num_selected = 0 must be at least 1"):
        random_aggregation(num_selected=0)


@pytest.mark.parametrize("settings", [{}, {"per_layer": True}])
def test_more_clients_than_a_cohort_has_are_refused(settings, make_spec):
    random_aggregation(num_selected=6, **settings).init(make_spec(6))
    with pytest.raises(InputError, match=r"num_selected = 1000000000 .* = 6"):
        random_aggregation(num_selected=10**9, **settings).init(make_spec(6))


@pytest.mark.parametrize("normalization", ["sum", "softmax"])
def test_a_cohort_without_numbers_is_excluded_and_reported(one_round, normalization):
    judged, result = one_round(
        random_aggregation(normalization=normalization), np.full((6, 4), np.nan)
    )
    assert not np.asarray(judged.weights).any()
    assert np.asarray(judged.scores["non_finite"]).all()
    assert not np.asarray(result.update).any()
