"""LeadFL's backdoor: the mixed gradient and the copies."""

import jax.numpy as jnp
import numpy as np
import pytest
from attacks.views import (
    crafted,
    make_batch,
    make_spec,
    make_tools,
    make_view,
    quick_jit,
)

from fedjax_sim.attacks.leadfl_backdoor import leadfl_backdoor, mgda_weights
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.normalize import normalization
from fedjax_sim.data.triggers import nine_pixel, stamp
from fedjax_sim.numerics.flat import ravel

TOOLS, BATCH = make_tools(), make_batch()


def gradient_of(**options) -> np.ndarray:
    (stage,) = leadfl_backdoor(**options).local_stages(TOOLS)
    _, _, grads = quick_jit(stage.gradient)(TOOLS.global_params, {}, BATCH)
    return np.asarray(ravel(grads))


def plain_gradient(batch) -> np.ndarray:
    _, _, grads = quick_jit(TOOLS.gradient)(TOOLS.global_params, {}, batch)
    return np.asarray(ravel(grads))


def triggered(count):
    chosen = jnp.arange(8) < count
    pattern = nine_pixel((28, 28, 1), normalization("half", 1))
    return BATCH._replace(
        images=stamp(BATCH.images, pattern, chosen),
        labels=jnp.where(chosen, 8, BATCH.labels),
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_fixed_mixture_weighs_the_two_gradients(share):
    expected = share * plain_gradient(BATCH) + (1 - share) * plain_gradient(
        triggered(7)
    )
    actual = gradient_of(mixing="fixed", clean_weight=share)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("fraction", "count"), [(0.5, 4), (0.36, 3), (0.0, 0)])
def test_first_samples_of_the_real_ones_are_poisoned(fraction, count):
    """Of 7 samples: 3.5 rounds to the even 4."""
    actual = gradient_of(mixing="fixed", clean_weight=0.0, poisoned_fraction=fraction)
    expected = plain_gradient(triggered(count))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss_scale", ["loss", "loss+", "none", "l2"])
def test_mgda_mixture_is_one_of_the_two_gradients_weighed(loss_scale):
    backdoor, clean = plain_gradient(triggered(7)), plain_gradient(BATCH)
    actual = gradient_of(loss_scale=loss_scale)
    weights, *_ = np.linalg.lstsq(np.stack([backdoor, clean], 1), actual, rcond=None)
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-4)
    assert (weights > 0).all()


def test_mgda_finds_the_shortest_mixture():
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, y = rng.normal(size=(2, 6)).astype(np.float32)
        weight, rest = mgda_weights(x, y, 1.0, 1.0, "none")
        shares = np.linspace(0, 1, 1001)[:, None]
        best = np.linalg.norm(shares * x + (1 - shares) * y, axis=1).min()
        assert np.linalg.norm(weight * x + rest * y) <= best + 3e-3


def test_copies_of_the_first_attacker():
    view = make_view([False, True, False, True])
    sent = crafted(leadfl_backdoor(copies=3), view)
    np.testing.assert_array_equal(sent, [view.updates[1]] * 2)
    assert leadfl_backdoor().craft is None


@pytest.mark.parametrize("trigger", ["9pixel", "leadfl_1pixel"])
def test_test_images_of_all_other_classes(trigger):
    attack = leadfl_backdoor(trigger=trigger, trigger_values="code")
    test = attack.test(make_spec())
    assert (test.victim_class, test.target_class) == (None, 8)
    np.testing.assert_allclose(test.trigger.value[3, 23], 2.8215, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trigger": "4pixel"}, "trigger = '4pixel'"),
        ({"trigger_values": "cooked"}, "trigger_values = 'cooked'.*allowed: code, raw"),
        ({"mixing": "mean"}, "mixing = 'mean'"),
        ({"loss_scale": "l1"}, "loss_scale = 'l1'"),
        ({"clean_weight": 1.5}, "clean_weight"),
        ({"copies": 0}, "copies = 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=r"config\.attack\." + message):
        leadfl_backdoor(**options)
