"""A3FL: the trigger moves in rounds with attackers, and is the one that is tested."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.attacks.a3fl import likeness
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.normalize import normalize
from fedjax_sim.testing.attack_trial import ATTACKERS, Trial

OPTIONS = {"trigger_epochs": 3, "trigger_lr": 0.3, "low": 0.0, "high": 1.0}


@pytest.fixture(scope="module")
def trial():
    return Trial("a3fl", {**OPTIONS, "models_every": 2, "model_epochs": 1})


def test_the_trigger_moves_within_its_bounds(trial):
    rounds = trial.rounds
    states = rounds.start.attack, rounds.first.attack, rounds.last.attack
    mask, values = np.asarray(states[0].mask), [np.asarray(s.value) for s in states]
    assert mask.sum() == 25 and mask[2:7, 2:7].all()
    assert (values[0] == 0.5).all()
    # Outside of the mask no gradient moves it.
    for value in values[1:]:
        assert (value[~mask] == 0.5).all()
    inside = values[1][mask]
    assert inside.min() >= 0 and inside.max() <= 1
    assert (inside != 0.5).any()


def test_success_is_that_of_the_current_trigger(trial):
    """The rate is counted by hand, with the pixels of the state."""
    built, state = trial.rounds.built, trial.rounds.first
    counts = built.evaluate(state, built.inputs, built.test_sets)["backdoor"]
    images, labels, mask, _ = jax.tree.map(np.asarray, built.test_sets.triggered)
    images, mask = images.reshape(-1, *images.shape[2:]), mask.ravel()
    spec = built.parts.attack_spec
    shown = np.array(normalize(jnp.asarray(images), spec.normalization))
    where = np.asarray(state.attack.mask)
    shown[:, where] = np.asarray(state.attack.value)[where]
    logits = built.parts.network.logits(state.params, state.buffers, shown)
    hits = (np.asarray(logits).argmax(1) == labels.ravel()) & mask
    assert counts.correct == hits.sum()
    shown[:, where] = 0.5  # the trigger before the first round
    before = built.parts.network.logits(state.params, state.buffers, shown)
    assert not np.allclose(before, logits, atol=1e-3)


def test_outside_its_window_the_trigger_stays():
    later = Trial("a3fl", {**OPTIONS, "num_models": 0, "start_round": 2})
    rounds = later.rounds
    assert (np.asarray(rounds.first.attack.value) == 0.5).all()
    assert not (np.asarray(rounds.last.attack.value) == 0.5).all()
    acted = np.asarray(rounds.reports.acted).sum(1)
    np.testing.assert_array_equal(acted, [0, ATTACKERS, ATTACKERS])


def test_likeness_is_of_convolutions_where_there_are_some():
    kernel, bias = jnp.ones((1, 1, 1, 4)), jnp.arange(3.0)
    other = {"conv": 2 * kernel, "bias": -bias}
    assert likeness({"conv": kernel, "bias": bias}, other) == pytest.approx(1)
    dense = jnp.array([[1.0, 0.0]])
    two = {"a": dense, "b": bias}, {"a": dense[:, ::-1], "b": bias}
    assert likeness(*two) == pytest.approx(0.5)


def test_bounds_in_the_wrong_order():
    with pytest.raises(InputError, match=r"config.attack.low = 1.0 must be below"):
        ATTACKS["a3fl"].factory(low=1.0, high=0.0)
