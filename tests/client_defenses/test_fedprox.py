"""FedProx: the term's gradient, and what it does in a federation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_sim.client_defenses.fedprox import add_proximal, fedprox

START = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[0.5]])}
NOW = {"a": jnp.array([1.3, -2.4]), "b": jnp.array([[-0.7]])}


def squared(params):
    offsets = jax.tree.map(jnp.subtract, params, START)
    return sum(jnp.square(x).sum() for x in jax.tree.leaves(offsets))


def norms(params):
    offsets = jax.tree.map(jnp.subtract, params, START)
    return sum(jnp.linalg.norm(x) for x in jax.tree.leaves(offsets))


@pytest.mark.parametrize(("square", "term"), [(True, squared), (False, norms)])
def test_what_is_added_is_the_gradient_of_the_term(square, term):
    rule = add_proximal(0.3, squared=square)
    zeros = jax.tree.map(jnp.zeros_like, NOW)
    added, _ = rule.update(zeros, rule.init(START), NOW)
    wanted = jax.grad(lambda params: 0.15 * term(params))(NOW)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), added, wanted
    )
    # At the start itself there is no pull, and no NaN.
    at_start, _ = rule.update(zeros, rule.init(START), START)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(at_start))


def test_a_local_minimum_moves_towards_the_start():
    # f(w) = |w - 1|^2 / 2 from 0: the minimum with the term is 1 / (1 + mu).
    rule = fedprox(mu=3.0).optimizer(0.1, 0.0, 0.0)
    params = {"w": jnp.zeros(2)}
    state = rule.init(params)
    for _ in range(100):
        grads = {"w": params["w"] - 1.0}
        updates, state = rule.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], 0.25, rtol=1e-5)
