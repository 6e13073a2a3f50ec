"""MPAF on models given by hand."""

import jax.numpy as jnp
import numpy as np
from attacks.views import crafted, make_view

from fedjax_sim.attacks.mpaf import mpaf


def test_it_drags_the_model_back_to_the_first_one():
    attack = mpaf(scale=2.0)
    state = jnp.zeros(3)
    models = jnp.array([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0], [0.0, 1.0, 0.0]])
    for index, model in enumerate(models):
        state = attack.observe(state, jnp.int32(index + 1), model)
        view = make_view([False, True], 3)._replace(global_params=model)
        np.testing.assert_allclose(
            crafted(attack, view, state), [2 * (models[0] - model)]
        )


def test_it_knows_nothing_and_trains_nothing():
    assert mpaf().knowledge == () and not mpaf().trains
