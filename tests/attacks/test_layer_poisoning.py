"""Layer poisoning: which layers are critical, and what is sent."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.attacks.layer_poisoning import crafted, critical_layers
from fedjax_sim.testing.attack_trial import ATTACKERS, Trial, sent


def found(rates, threshold):
    """Layers that add up their shares of the success."""
    rates = jnp.array(rates)
    share = lambda poisoned: jnp.where(poisoned, rates, 0.0).sum()
    return critical_layers(share, share, len(rates), threshold)


@pytest.mark.parametrize(
    ("threshold", "count"), [(0.0, 0), (0.4, 1), (0.5, 1), (0.6, 2), (1.0, 3)]
)
def test_the_fewest_layers_that_reach_the_threshold(threshold, count):
    layers = found([0.25, 0.5, 0.0, 0.25], threshold)
    np.testing.assert_array_equal(layers.order, [1, 0, 3, 2])  # equal: by their order
    assert layers.number == count
    assert set(np.flatnonzero(layers.chosen)) == {*[1, 0, 3][:count]}


def test_without_success_nothing_is_sent():
    assert not found([0.0, 0.0], 0.8).chosen.any()


def test_all_layers_where_they_never_reach_it():
    half = lambda poisoned: 0.5 * poisoned.all().astype(jnp.float32)
    none = lambda poisoned: jnp.float32(0)
    assert critical_layers(half, none, 3, 0.8).chosen.all()


def test_strength_of_critical_layers():
    m, b, g = ({"x": jnp.array([float(v)]), "y": jnp.zeros(1)} for v in (3, 5, 1))
    chosen = jnp.array([True, False])
    for strength, wanted in ((1.0, 3.0), (0.5, 1 + 0.5 * 2 + 0.5 * 4), (3.0, 7.0)):
        assert crafted(chosen, m, b, g, strength)["x"] == wanted


@pytest.mark.slow
def test_the_clean_model_knows_nothing_of_the_poison():
    """With threshold 0 it alone is sent, whatever the poisoned model has learnt."""
    send = lambda dpr: sent(
        Trial("layer_poisoning", {"threshold": 0.0, "dpr": dpr}).rounds.first
    )
    np.testing.assert_allclose(send(1.0), send(0.0), rtol=1e-5, atol=1e-7)


def test_poisoned_layers_are_sent_whole_or_not_at_all():
    """Beside the clean model, whole tensors differ."""
    clean = Trial("layer_poisoning", {"threshold": 0.0}).rounds.first
    trial = Trial("layer_poisoning", {"threshold": 1.0, "victim_class": None})
    moved = sent(trial.rounds.first)[-ATTACKERS:] - sent(clean)[-ATTACKERS:]
    offsets = trial.rounds.built.parts.network.layout.offsets
    tensors = np.split(np.abs(moved) > 1e-6, offsets[1:-1], axis=1)
    assert any(one.any() for one in tensors)
