"""Random weights: their distribution, and what they depend on."""

import jax
import numpy as np
import pytest

from fedjax_sim.defenses.random_aggregation import random_aggregation
from fedjax_sim.errors import InputError


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


def test_softmax(weights):
    drawn = weights(normalization="softmax")
    np.testing.assert_allclose(drawn.sum(), 1, rtol=1e-5)
    assert 2.4 < drawn.max() / drawn.min() < np.e


def test_only_the_largest_draws(weights):
    some, every = weights(num_selected=20), weights()
    kept = np.argsort(every)[-20:]
    assert set(np.flatnonzero(some)) == set(kept)
    np.testing.assert_allclose(some[kept], every[kept] / every[kept].sum(), rtol=1e-4)


def test_a_draw_belongs_to_its_client(weights):
    np.testing.assert_array_equal(
        weights(ids=[3, 9, 5]), weights(ids=[9, 5, 3])[[2, 0, 1]]
    )


def test_bad_arguments():
    with pytest.raises(InputError, match="did you mean 'softmax'"):
        random_aggregation(normalization="softmx")
    with pytest.raises(InputError, match=r"num_selected = 0 must be .* at least 1"):
        random_aggregation(num_selected=0)
