"""Steps in a ball, and steps of some modules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_sim.attacks.parts.projection import norm, only, project_l2

CENTER = {"conv": {"kernel": jnp.ones((2, 3))}, "fc": {"bias": jnp.arange(3.0)}}


def test_norm_is_that_of_all_leaves():
    flat = np.concatenate([np.ones(6), np.arange(3)])
    np.testing.assert_allclose(norm(CENTER), np.linalg.norm(flat), rtol=1e-6)


@pytest.mark.parametrize("radius", [0.1, 0.5])
def test_parameters_stay_in_the_ball(radius):
    """Also after many steps in one direction."""
    optimizer = optax.chain(optax.sgd(0.1, momentum=0.9), project_l2(CENTER, radius))
    params, state = CENTER, optimizer.init(CENTER)
    gradient = jax.tree.map(jnp.ones_like, CENTER)
    for _ in range(5):
        updates, state = optimizer.update(gradient, state, params, epoch_start=True)
        params = optax.apply_updates(params, updates)
    offset = jax.tree.map(jnp.subtract, params, CENTER)
    np.testing.assert_allclose(norm(offset), radius, rtol=1e-5)


def test_small_steps_are_left_alone():
    step = jax.tree.map(lambda x: 1e-3 * jnp.ones_like(x), CENTER)
    updates, _ = project_l2(CENTER, 1.0).update(step, (), CENTER)
    for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(step), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_only_chosen_modules_move():
    """Weight decay does not move the others either."""
    optimizer = optax.chain(
        optax.add_decayed_weights(0.1), optax.sgd(0.1), only(lambda name: name == "fc")
    )
    gradient = jax.tree.map(jnp.ones_like, CENTER)
    updates, _ = optimizer.update(gradient, optimizer.init(CENTER), CENTER)
    assert not updates["conv"]["kernel"].any()
    np.testing.assert_allclose(
        updates["fc"]["bias"], -0.1 * (1 + 0.1 * CENTER["fc"]["bias"]), rtol=1e-6
    )
