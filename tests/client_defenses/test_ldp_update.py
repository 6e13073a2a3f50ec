"""LDP of a whole update: the clip, the noise, and whose key draws it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import build, spied, spy, start_state

from fedjax_sim.client_defenses.ldp_update import ldp_update
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses import DEFENSES

KEY = jax.random.key(0)


def test_only_long_updates_are_clipped():
    release = ldp_update(clip_norm=2.0, noise_multiplier=0.0).release
    np.testing.assert_allclose(release(jnp.array([3.0, 4.0]), KEY), [1.2, 1.6])
    np.testing.assert_array_equal(release(jnp.array([0.5, 0.25]), KEY), [0.5, 0.25])
    np.testing.assert_array_equal(release(jnp.zeros(2), KEY), [0.0, 0.0])


def test_the_noise_is_normal_and_in_units_of_the_bound():
    update = jnp.zeros(20_000).at[0].set(1.0)
    noise = (
        ldp_update(clip_norm=3.0, noise_multiplier=0.5).release(update, KEY) - update
    )
    np.testing.assert_allclose(noise.mean(), 0, atol=0.05)
    np.testing.assert_allclose(noise.std(), 1.5, rtol=0.03)
    within = (jnp.abs(noise) < 1.5).mean()  # of one standard deviation
    np.testing.assert_allclose(within, 0.683, atol=0.02)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"clip_norm": 0.0}, "clip_norm = 0.0 must be above 0"),
        ({"noise_multiplier": -1.0}, "noise_multiplier = -1.0 must be at least 0"),
    ],
)
def test_bad_numbers_are_refused(options, key):
    with pytest.raises(InputError, match=f"config.client_defense.{key}"):
        ldp_update(**options)


def test_every_client_draws_its_own_noise_in_every_round(monkeypatch):
    """With nothing learned, what is sent is the noise."""
    monkeypatch.setitem(DEFENSES, "spy", Entry(spy, "-", "none"))
    changes = {
        "defense.name": "spy",
        "participation.clients_per_round": 6,
        "attack.malicious_clients": "last",
        "client.lr": 0.0,
        "client_defense.name": "ldp_update",
    }
    built = build(changes)
    step = jax.jit(built.round_step)
    state, _ = step(start_state(built), built.inputs)
    first = spied(state)
    state, _ = step(state, built.inputs)
    second = spied(state)

    np.testing.assert_array_equal(first[4:], 0)  # malicious
    draws = np.concatenate([first[:4], second[:4]])
    np.testing.assert_allclose(draws.std(1), 0.01, rtol=0.2)
    np.testing.assert_allclose(np.corrcoef(draws), np.eye(8), atol=0.2)
