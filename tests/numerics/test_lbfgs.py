"""The L-BFGS estimate of a Hessian, against the dense BFGS recursion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.numerics.lbfgs import hessian_vector_product

product = jax.jit(hessian_vector_product)


def dense_bfgs(steps, changes):
    """B_0 = sigma I of the newest pair, then the BFGS updates, oldest first."""
    sigma = steps[-1] @ changes[-1] / (steps[-1] @ steps[-1])
    hessian = sigma * np.eye(steps.shape[1])
    for s, y in zip(steps, changes, strict=True):
        hs = hessian @ s
        hessian += np.outer(y, y) / (y @ s) - np.outer(hs, hs) / (s @ hs)
    return hessian


def pairs(m, d=12, seed=0):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, d))
    steps = rng.normal(size=(m, d)) * 10.0 ** rng.uniform(-3, 0, size=(m, 1))
    return steps, steps @ (root @ root.T + np.eye(d)), rng.normal(size=d)


@pytest.mark.parametrize("filled", [1, 3, 6])
def test_product_equals_that_of_the_recursion(filled):
    steps, changes, vector = pairs(filled)
    padding = np.zeros((6 - filled, 12))
    actual = product(
        np.concatenate([padding, steps]).astype("f4"),
        np.concatenate([padding, changes]).astype("f4"),
        filled,
        vector.astype("f4"),
    )
    expected = dense_bfgs(steps, changes) @ vector
    np.testing.assert_allclose(
        actual, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max()
    )


def test_the_newest_pair_is_met_exactly():
    steps, changes, _ = pairs(4, seed=1)
    arrays = [jnp.asarray(x, jnp.float32) for x in (steps, changes, 3 * steps[-1])]
    actual = product(arrays[0], arrays[1], 4, arrays[2])
    expected = 3 * changes[-1]
    atol = 1e-3 * np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=atol)


def test_without_a_pair_nothing_is_known():
    actual = product(jnp.zeros((3, 5)), jnp.zeros((3, 5)), 0, jnp.ones(5))
    assert not np.isfinite(actual).any()
