"""Flat vectors and keys."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.rng import Purpose, stream
from fedjax_sim.numerics.flat import flat_layout, ravel

TREE = {
    "fc": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.array([7.0, 8.0, 9.0])},
    "bn": {"scale": jnp.array([5.0])},
}


def test_layout_names_and_places_every_leaf():
    layout = flat_layout(TREE)
    assert layout.names == ("bn/scale", "fc/bias", "fc/kernel")
    assert layout.offsets == (0, 1, 4, 10)
    assert layout.shapes == ((1,), (3,), (2, 3))
    assert layout.size == 10


def test_ravel_and_unravel_are_inverse():
    layout = flat_layout(TREE)
    chex.assert_trees_all_equal(layout.unravel(ravel(TREE)), TREE)
    np.testing.assert_array_equal(ravel(TREE), [5, 7, 8, 9, 0, 1, 2, 3, 4, 5])


def test_an_empty_tree_is_an_empty_vector():
    assert ravel({}).shape == (0,)
    assert flat_layout({}).size == 0


def test_streams_differ_by_purpose_round_and_client():
    root = jax.random.key(0)
    keys = [
        stream(root, purpose, round_index, client)
        for purpose in (Purpose.DEFENSE, Purpose.ATTACK)
        for round_index in (1, 2)
        for client in (1, 2)
    ]
    draws = {int(jax.random.bits(key)) for key in keys}
    assert len(draws) == 8
    again = stream(root, Purpose.DEFENSE, 1, 1)
    assert jax.random.bits(again) == jax.random.bits(keys[0])
