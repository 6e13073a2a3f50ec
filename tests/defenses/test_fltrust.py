"""FLTrust on two coordinates: whom it trusts, and how long updates become."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.contracts.defense import Root, RootRequest
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.fltrust import fltrust

START = jnp.array([1.0, 0.0])
# Along, across, against, at 60 degrees, and no update at all.
UPDATES = [[5.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.5, 0.5 * 3**0.5], [0.0, 0.0]]


def context(step, buffers=()):
    """A server whose training moves the model by `step`."""

    def train(model, key):
        del key
        return GlobalModel(model.params + jnp.array(step), jnp.array(buffers))

    root = Root(jnp.zeros((1, 1, 1, 1)), jnp.zeros(1, int), train)
    return {"root": root, "global_params": START}


def test_weights_and_lengths_by_hand(one_round, survivors):
    judged, result = one_round(fltrust(), UPDATES, context=context([2.0, 0.0]))
    np.testing.assert_allclose(
        judged.scores["trust"], [1, 0, 0, 0.5, 0], atol=1e-6, rtol=1e-6
    )
    assert survivors(judged) == [0, 3]
    # Both at the server's length 2, weights 1 and 1/2.
    expected = (np.array([2, 0]) + 0.5 * np.array([1, 3**0.5])) / 1.5
    np.testing.assert_allclose(result.update, expected, rtol=1e-5)


def test_without_trust_the_model_stays(one_round, survivors):
    judged, result = one_round(fltrust(), UPDATES[2:3], context=context([1.0, 0.0]))
    assert survivors(judged) == []
    assert result.update.tolist() == [0, 0]


def test_a_server_that_stands_still_trusts_nobody(one_round, survivors):
    judged, result = one_round(fltrust(), UPDATES, context=context([0.0, 0.0]))
    assert survivors(judged) == []
    assert np.isfinite(result.update).all()


def test_authors_compare_and_rescale_models(one_round):
    # The server's model is (2, 0); the clients' are (1, 1) and (-1, 0).
    judged, result = one_round(
        fltrust(variant="authors"),
        [[0.0, 1.0], [-2.0, 0.0]],
        buffers=[[1.0], [5.0]],
        context=context([1.0, 0.0], [7.0]) | {"global_buffers": jnp.zeros(1)},
    )
    np.testing.assert_allclose(judged.scores["trust"], [2**-0.5, 0], rtol=1e-5)
    # The first model at length 2, and its buffers by the same factor.
    np.testing.assert_allclose(START + result.update, [2**0.5, 2**0.5], rtol=1e-5)
    np.testing.assert_allclose(result.buffers, [2**0.5], rtol=1e-5)


def test_authors_take_the_server_where_nobody_is_trusted(one_round, survivors):
    judged, result = one_round(
        fltrust(variant="authors"),
        [[-2.0, 0.0], [-3.0, 0.0]],
        buffers=[[1.0], [5.0]],
        context=context([1.0, 0.0], [7.0]) | {"global_buffers": jnp.zeros(1)},
    )
    assert survivors(judged) == [0, 1]
    assert (START + result.update).tolist() == [2, 0]
    assert result.buffers.tolist() == [7]


def test_what_the_server_asks_for():
    assert fltrust(num_samples=500).root == RootRequest(500)
    authors = fltrust(variant="authors", num_samples=1000).root
    assert authors == RootRequest(1000, True, momentum=0.9, weight_decay=0.005)


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match=r"num_samples = 0 must be at least 1"):
        fltrust(num_samples=0)
    with pytest.raises(InputError, match="did you mean 'authors'"):
        fltrust(variant="author")
