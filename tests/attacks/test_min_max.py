"""Min-Max and Min-Sum: the crafted vector touches the bound."""

import jax.numpy as jnp
import numpy as np
import pytest
from attacks.views import crafted, make_view

from fedjax_sim.attacks.min_max import largest_scale, min_max
from fedjax_sim.attacks.min_sum import min_sum
from fedjax_sim.core.errors import InputError

VIEW = make_view([True] * 5 + [False] * 4, 40)


def measures(known: np.ndarray, vector: np.ndarray) -> dict:
    """(what the attack measures of a vector, its bound), by name."""
    pairwise = ((known[:, None] - known[None]) ** 2).sum(-1)
    to_vector = ((known - vector) ** 2).sum(-1)
    return {
        min_max: (to_vector.max(), pairwise.max()),
        min_sum: (to_vector.sum(), pairwise.sum(1).min()),
    }


@pytest.mark.parametrize("attack", [min_max, min_sum])
@pytest.mark.parametrize("perturbation", ["std", "unit_vec", "sign"])
@pytest.mark.parametrize("knowledge", ["compromised", "benign"])
def test_vector_reaches_the_bound_and_not_beyond(attack, perturbation, knowledge):
    sent = crafted(attack(perturbation=perturbation, knowledge=knowledge), VIEW)
    rows = np.asarray(VIEW.malicious) == (knowledge == "compromised")
    known = np.asarray(VIEW.updates, np.float64)[rows]
    mean = known.mean(0)

    assert (sent == sent[0]).all()
    measured, bound = measures(known, sent[0])[attack]
    assert measured <= bound * (1 + 1e-5)
    further = mean + 1.001 * (sent[0] - mean)
    assert measures(known, further)[attack][0] > bound
    direction = {
        "std": known.std(0, ddof=1),
        "unit_vec": mean / np.linalg.norm(mean),
        "sign": np.sign(mean),
    }[perturbation]
    gamma = (mean - sent[0]) @ direction / (direction @ direction)
    np.testing.assert_allclose(sent[0], mean - gamma * direction, atol=1e-4)
    assert gamma > 0.1


@pytest.mark.parametrize("limit", [0.0, 0.3, 10.0, 59.9])
def test_search_finds_the_limit(limit):
    found = largest_scale(lambda scale: scale <= limit, 30.0, 1e-5)
    np.testing.assert_allclose(found, limit, atol=2e-5)


@pytest.mark.parametrize("limit", [1e-20, 1.06e-5, 0.3])
def test_search_finds_small_limits_in_relative_terms(limit):
    found = largest_scale(lambda scale: scale <= limit, 30.0, 1e-5)
    np.testing.assert_allclose(found, limit, rtol=2e-5)


@pytest.mark.parametrize("attack", [min_max, min_sum])
def test_signs_in_a_million_dimensions_reach_the_bound(attack):
    d, norm = 1_000_000, 0.01
    view = make_view([True] * 5 + [False] * 4, d)
    lengths = jnp.linalg.norm(view.updates, axis=1, keepdims=True)
    view = view._replace(updates=norm * view.updates / lengths)
    sent = crafted(attack(perturbation="sign"), view)
    known = np.asarray(view.updates, np.float64)[:5]
    gamma = np.abs(sent[0] - known.mean(0)).mean()
    measured, bound = measures(known, sent[0])[attack]
    assert 0.999 * bound < measured <= 1.0001 * bound
    if attack is min_max:
        # Orthogonal updates: gamma^2 d = 2 norm^2 - norm^2 (1 - 1/5), up to the angle.
        np.testing.assert_allclose(gamma, np.sqrt(1.2) * norm / np.sqrt(d), rtol=0.1)


@pytest.mark.parametrize("attack", [min_max, min_sum])
def test_alone_it_sends_zeros_and_of_equal_updates_their_mean(attack):
    alone = make_view([False, True, False])
    assert not crafted(attack(), alone).any()
    same = VIEW._replace(updates=jnp.ones_like(VIEW.updates))
    np.testing.assert_allclose(crafted(attack(), same), 1.0)
    still = VIEW._replace(updates=jnp.zeros_like(VIEW.updates))
    assert not crafted(attack(perturbation="unit_vec"), still).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perturbation": "unit"}, "perturbation = 'unit'.*'unit_vec'"),
        ({"knowledge": "all"}, "knowledge = 'all'"),
        ({"initial_scale": 0.0}, r"initial_scale = 0\.0 must be above 0"),
        ({"tolerance": -1.0}, "tolerance = -1.0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=r"config\.attack\." + message):
        min_sum(**options)
