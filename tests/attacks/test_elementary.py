"""MPAF, sign flipping, Gaussian noise and inner product manipulation."""

import jax.numpy as jnp
import numpy as np
import pytest
from attacks.views import crafted, make_view

from fedjax_sim.attacks.gaussian import gaussian
from fedjax_sim.attacks.ipm import ipm
from fedjax_sim.attacks.mpaf import mpaf
from fedjax_sim.attacks.sign_flip import sign_flip
from fedjax_sim.core.errors import InputError

VIEW = make_view([True, False, False, True, False], 5000)
UPDATES = np.asarray(VIEW.updates)


def test_mpaf_remembers_the_first_model():
    attack = mpaf(scale=2.0)
    state = jnp.zeros(3)
    models = jnp.array([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0], [0.0, 1.0, 0.0]])
    for index, model in enumerate(models):
        state = attack.observe(state, jnp.int32(index + 1), model)
        view = make_view([False, True], 3)._replace(global_params=model)
        np.testing.assert_allclose(
            crafted(attack, view, state), [2 * (models[0] - model)]
        )


def test_mpaf_and_gaussian_need_no_training():
    assert not mpaf().trains and not gaussian().trains
    assert mpaf().knowledge == gaussian().knowledge == ()


def test_sign_flip_turns_each_update_round():
    sent = crafted(sign_flip(scale=2.5), VIEW)
    np.testing.assert_allclose(sent, -2.5 * UPDATES[[0, 3]])


def test_gaussian_draws_have_the_scale_and_differ():
    sent = crafted(gaussian(std=3.0), VIEW)
    np.testing.assert_allclose(sent.std(1), 3.0, rtol=0.05)
    np.testing.assert_allclose(sent.mean(1), 0.0, atol=0.2)
    assert abs(np.corrcoef(sent)[0, 1]) < 0.1
    with pytest.raises(InputError, match=r"config\.attack\.std = -1\.0"):
        gaussian(std=-1.0)


def test_ipm_reverses_a_mean():
    benign = crafted(ipm(epsilon=0.1), VIEW)
    np.testing.assert_allclose(
        benign, [-0.1 * UPDATES[[1, 2, 4]].mean(0)] * 2, rtol=1e-4, atol=1e-6
    )
    own = crafted(ipm(epsilon=2.0, knowledge="compromised"), VIEW)
    np.testing.assert_allclose(
        own, [-2 * UPDATES[[0, 3]].mean(0)] * 2, rtol=1e-4, atol=1e-6
    )
    assert ipm().knowledge == ("benign_updates",)
