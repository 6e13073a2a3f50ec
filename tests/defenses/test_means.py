"""Geometric median, centred clipping and weak DP: what their papers say of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.centered_clipping import centered_clipping
from fedjax_sim.defenses.geometric_median import geometric_median
from fedjax_sim.defenses.weak_dp import weak_dp

ROWS = np.random.default_rng(0).normal(size=(6, 4))


def test_the_geometric_median_of_a_line_is_its_median(one_round):
    line = np.outer([0.0, 1.0, 2.0, 10.0, 500.0], [0.6, 0.8])
    _, result = one_round(geometric_median(iterations=200), line)
    np.testing.assert_allclose(result.update, [1.2, 1.6], atol=0.02)


def test_tiny_updates_have_a_geometric_median_of_their_own(one_round):
    rows = np.concatenate([ROWS, [50 * np.ones(4)]])
    _, usual = one_round(geometric_median(), rows)
    _, tiny = one_round(geometric_median(), 1e-9 * rows)
    np.testing.assert_allclose(1e9 * tiny.update, usual.update, rtol=1e-4)
    # With byzfl's nu of 0.1 it is the plain mean.
    _, peers = one_round(geometric_median(variant="byzfl"), 1e-9 * rows)
    np.testing.assert_allclose(1e9 * peers.update, rows.mean(0), rtol=1e-4)


def test_a_weight_of_two_is_the_client_twice(one_round):
    twice = np.concatenate([ROWS, ROWS[:1]])
    weights = np.array([2.0, 1, 1, 1, 1, 1])
    _, one = one_round(geometric_median(), ROWS, weights=weights)
    _, two = one_round(geometric_median(), twice)
    np.testing.assert_allclose(one.update, two.update, rtol=1e-5)


def test_an_option_that_a_variant_fixes():
    with pytest.raises(InputError, match=r"config.defense.nu = 0.1 does not belong"):
        geometric_median(variant="release", nu=0.1)


def test_centred_clipping_with_a_large_tau_is_the_mean(one_round):
    _, result = one_round(centered_clipping(tau=1e6), ROWS)
    np.testing.assert_allclose(result.update, ROWS.mean(0), rtol=1e-5)


def test_centred_clipping_is_moved_by_tau_at_most(one_round):
    rows = np.concatenate([np.zeros((5, 4)), [[1e30, 0, 0, 0]]])
    _, result = one_round(centered_clipping(tau=3.0, iterations=2), rows)
    # Two steps: 3/6, then 3/6 - 5/6 * 0.5 more.
    np.testing.assert_allclose(result.update, [0.5 + 0.5 - 2.5 / 6, 0, 0, 0], 1e-5)


def test_weak_dp_has_the_noise_that_it_says(one_round):
    zeros = np.zeros((4, 20_000))
    _, result = one_round(weak_dp(noise_sigma=0.5), zeros)
    assert np.std(result.update) == pytest.approx(0.5, rel=0.05)
    _, peers = one_round(weak_dp(noise_sigma=0.5, variant="flpoison"), zeros)
    assert np.std(peers.update) == pytest.approx(0.25, rel=0.05)


def test_weak_dp_clips_each_client(one_round):
    rows = np.array([[30.0, 0.0], [0.0, 1.0]])
    judged, result = one_round(weak_dp(clip_norm=3.0, noise_sigma=0.0), rows)
    np.testing.assert_allclose(result.update, [1.5, 0.5], rtol=1e-5)
    np.testing.assert_allclose(judged.scores["clip_factor"], [0.1, 1.0], rtol=1e-5)
    assert jnp.all(judged.weights == 1)
