"""FoolsGold: who is taken for a copy, and what the history is made of."""

import jax
import numpy as np
import pytest

from fedjax_sim.defenses.foolsgold import foolsgold, foolsgold_weights

weights_of = jax.jit(foolsgold_weights)


def reference(history):
    """FoolsGold's weights in plain double-precision NumPy."""
    n = len(history)
    unit = history / np.linalg.norm(history, axis=1, keepdims=True)
    cosines = unit @ unit.T - np.eye(n)
    closest = cosines.max(1) + 1e-5
    for i in range(n):
        for j in range(n):
            if i != j and closest[i] < closest[j]:
                cosines[i, j] *= closest[i] / closest[j]
    v = np.clip(1 - cosines.max(1), 0, 1)
    v /= v.max()
    v[v == 1] = 0.99
    return np.clip(np.log(v / (1 - v) + 1e-5) + 0.5, 0, 1)


@pytest.mark.parametrize("seed", range(3))
def test_weights_against_numpy(seed):
    rng = np.random.default_rng(seed)
    history = rng.normal(size=(8, 20))
    history[:3] = history[0] + 0.3 * rng.normal(size=(3, 20))
    actual = weights_of(history.astype("f4"), np.ones(8, bool))
    expected = reference(history.astype("f4").astype(float))
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    assert (expected[:3] < 0.9).all()


def test_copies_get_no_weight():
    history = np.random.default_rng(0).normal(size=(6, 30)).astype("f4")
    history[1:3] = [history[0], 7 * history[0]]
    weights = weights_of(history, np.ones(6, bool))
    assert not np.asarray(weights)[:3].any()
    assert np.asarray(weights)[3:].all()


def test_silent_clients_resemble_nobody():
    history = np.random.default_rng(1).normal(size=(5, 30)).astype("f4")
    history[3:] = 0
    weights = weights_of(history, np.ones(5, bool))
    np.testing.assert_array_equal(weights[3:], [1, 1])
    assert np.isfinite(weights).all()


@pytest.fixture
def play(make_cohort, make_context, make_spec, make_network):
    """Returns a function to the state and aggregate after rounds (ids, updates)."""
    network = make_network()

    def run(defense, rounds, population=6):
        n = len(rounds[0][0])
        state = defense.init(make_spec(n, population, network=network))
        context = make_context(network.layout.size)._replace(network=network)
        aggregate = jax.jit(lambda s, cohort: defense.aggregate(s, cohort, context))
        for ids, updates in rounds:
            state, judged, result = aggregate(state, make_cohort(updates, ids))
        (history,), _ = state
        return history, judged, result

    return run


def test_history_is_the_last_layer_by_client(play, make_network):
    network = make_network()
    updates = np.random.default_rng(2).normal(size=(2, 3, network.layout.size))
    updates = updates.astype("f4")
    history, *_ = play(foolsgold(), [([4, 0, 2], updates[0]), ([2, 1, 4], updates[1])])
    head = network.last_layer(updates)
    assert head.shape == (2, 3, 8)
    expected = np.zeros((6, 8), "f4")
    expected[[4, 0, 2]] += head[0]
    expected[[2, 1, 4]] += head[1]
    np.testing.assert_allclose(history, expected, rtol=1e-6)


def test_weights_are_not_normalised(play, make_network):
    # Orthogonal clients all count fully: a plain mean; the authors take half of it.
    d = make_network().layout.size
    updates = np.eye(3, d, k=d - 3)
    for variant, share in (("paper", 1.0), ("authors", 0.5)):
        _, judged, result = play(foolsgold(variant=variant), [([0, 1, 2], updates)])
        np.testing.assert_allclose(judged.scores["foolsgold_weight"], [1, 1, 1])
        np.testing.assert_allclose(result.update, share * updates.mean(0), rtol=1e-5)


def test_sybils_move_nothing(play, make_network, survivors):
    d = make_network().layout.size
    updates = np.random.default_rng(5).normal(size=(4, d))
    updates[1] = updates[0]
    _, judged, result = play(foolsgold(), [([0, 1, 2, 3], updates)])
    weights = np.asarray(judged.scores["foolsgold_weight"])
    assert survivors(judged) == [2, 3]
    # Divided by all four participants.
    np.testing.assert_allclose(result.update, weights @ updates / 4, rtol=1e-4)
