"""Attackers who rest while the rule holds something against them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import build, start_state

from fedjax_sim.core.errors import InputError

# Every client takes part; the attacker is far from all others.
FAR = {
    "participation.clients_per_round": 6,
    "attack": {"name": "gaussian", "num_malicious": 1, "std": 50.0},
    "defense": {"name": "droplet", "penalty": 1.0, "reward": 0.5},
}


def reports(changes, rounds):
    """`acted` and what attackers owe after each of some rounds, bool and f32 [r, q]."""
    built = build({**FAR, **changes})
    step = jax.jit(built.round_step)
    state, acted, owed = start_state(built), [], []
    attackers = np.flatnonzero(np.asarray(built.inputs.malicious))
    for _ in range(rounds):
        state, report = step(state, built.inputs)
        acted.append(np.asarray(report.acted)[np.isin(report.client_ids, attackers)])
        rule = state.defense[1] if changes.get("defense.before") else state.defense
        (_, activity), _ = rule
        owed.append(np.asarray(activity.penalties)[attackers])
    return np.array(acted), np.array(owed)


def test_who_is_caught_waits_until_it_is_forgiven():
    acted, owed = reports({"attack.rest_above": 0.0}, 4)
    # One round costs 1, two honest rounds bring it back, and on it goes.
    np.testing.assert_array_equal(owed[:, 0], [1, 0.5, 0, 1])
    np.testing.assert_array_equal(acted[:, 0], [True, False, False, True])


@pytest.mark.slow
def test_a_higher_limit_lets_it_act_earlier():
    acted, _ = reports({"attack.rest_above": 0.5}, 3)
    np.testing.assert_array_equal(acted[:, 0], [True, False, True])


def test_without_a_limit_it_never_rests():
    acted, owed = reports({}, 3)
    assert acted.all()
    np.testing.assert_array_equal(owed[:, 0], [1, 2, 3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"defense": {"name": "median"}}, "median.* holds nothing against clients"),
        ({"defense.monitoring": False}, "holds nothing against clients"),
        ({"attack": {"name": "none", "num_malicious": 0}}, "needs an attack"),
        ({"attack.rest_above": -1.0}, "rest_above"),
    ],
)
def test_where_nobody_can_rest_it_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        build({**FAR, "attack.rest_above": 0.5, **changes})


def test_stages_before_the_rule_change_nothing():
    acted, _ = reports(
        {
            "attack.rest_above": 0.0,
            "defense.before": ["clipping"],
            "defense.clipping_norm": 1e6,
        },
        3,
    )
    np.testing.assert_array_equal(acted[:, 0], [True, False, False])
    assert jnp.ndim(acted) == 2
