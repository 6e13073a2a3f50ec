"""FLDetector: detection, expulsion and restart on a quadratic problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.fldetector import fldetector

N, D, WINDOW, COLD = 12, 20, 4, 6
ATTACKERS = [2, 7, 10]


@pytest.fixture(scope="module")
def federation(make_cohort, make_context, make_spec):
    """Returns a function that plays rounds; benign clients minimise a quadratic."""
    defense = fldetector(window=WINDOW, cold_start=COLD)
    rng = np.random.default_rng(0)
    hessian = np.diag(np.linspace(0.5, 2, D))
    optima = rng.normal(size=(N, D))
    first = rng.normal(size=D).astype("f4")

    @jax.jit
    def play(state, model, cohort, context):
        context = context._replace(
            global_params=model.params, global_buffers=model.buffers
        )
        state, judged, result = defense.aggregate(state, cohort, context)
        model = GlobalModel(model.params + result.update, result.buffers)
        state, model = defense.after(state, model, judged, context)
        return state, model, judged

    def run(rounds, attackers):
        noise = np.random.default_rng(1)
        state = defense.init(make_spec(N, N, num_params=D))
        model = GlobalModel(jnp.asarray(first), jnp.zeros(0))
        history = []
        for r in range(1, rounds + 1):
            params = np.asarray(model.params, float)
            updates = -0.1 * (params - optima) @ hessian
            updates += 1e-3 * noise.normal(size=updates.shape)
            updates[attackers] = noise.normal(size=(len(attackers), D))
            order = noise.permutation(N)
            present = ~np.asarray(state.expelled)[order]
            cohort = make_cohort(updates[order], ids=order, weights=present)
            state, model, judged = play(state, model, cohort, make_context(D, round_=r))
            history.append((model, judged, state))
        return history

    return run, defense, first


def test_attackers_are_expelled_and_training_restarts(federation):
    run, defense, first = federation
    history = run(COLD + WINDOW + 4, ATTACKERS)
    detected = [bool(state.detected) for *_, state in history]
    # Rounds COLD + 2 .. COLD + WINDOW + 1 are scored; the last of them decides.
    assert detected.index(True) == COLD + WINDOW
    model, judged, state = history[COLD + WINDOW]
    assert np.flatnonzero(state.expelled).tolist() == ATTACKERS
    flagged = np.asarray(judged.client_ids)[np.asarray(judged.scores["flagged"])]
    assert sorted(flagged.tolist()) == ATTACKERS
    assert not np.asarray(judged.weights).any()
    np.testing.assert_array_equal(model.params, first)
    assert np.flatnonzero(~defense.eligible(state)).tolist() == ATTACKERS

    # Then FedAvg of the others, without another detection.
    _, judged, _ = history[-1]
    kept = np.asarray(judged.client_ids)[np.asarray(judged.weights) > 0]
    assert sorted(kept.tolist()) == [i for i in range(N) if i not in ATTACKERS]
    assert not np.asarray(judged.scores["flagged"]).any()
    assert (history[-1][0].params != first).any()
    assert np.flatnonzero(history[-1][2].expelled).tolist() == ATTACKERS


def test_before_the_detection_it_is_fedavg(federation):
    run, _, _ = federation
    for model, judged, _ in run(3, ATTACKERS):
        assert (judged.weights == 1).all()
        assert np.isfinite(model.params).all()


def test_errors_are_shares_of_the_round(federation):
    run, _, _ = federation
    history = run(COLD + 2, ATTACKERS)
    _, judged, state = history[-1]
    errors = np.asarray(judged.scores["prediction_error"])
    np.testing.assert_allclose(errors.sum(), 1, rtol=1e-5)
    by_client = np.asarray(state.errors)[-1]
    np.testing.assert_array_equal(by_client[np.asarray(judged.client_ids)], errors)
    others = [i for i in range(N) if i not in ATTACKERS]
    assert by_client[ATTACKERS].min() > 2 * by_client[others].max()
    # Round COLD + 1 was not scored.
    assert history[-1][2].num_scored == 1
    assert history[-2][2].num_scored == 0


def test_a_model_that_stands_still_is_not_scored(make_cohort, make_context, make_spec):
    defense = fldetector(window=2, cold_start=1)
    state = defense.init(make_spec(3, 3, num_params=4))
    cohort = make_cohort(np.zeros((3, 4)))
    aggregate = jax.jit(defense.aggregate)
    for r in range(1, 6):
        state, judged, _ = aggregate(state, cohort, make_context(4, round_=r))
    assert state.num_scored == 0
    assert state.num_pairs == 0
    assert not np.asarray(judged.scores["prediction_error"]).any()


def test_everybody_must_take_part(make_spec):
    with pytest.raises(InputError, match=r"clients_per_round = 5 must be .* = 40"):
        fldetector().init(make_spec(5))


@pytest.mark.parametrize(("key", "value"), [("window", 0), ("cold_start", 0)])
def test_bad_arguments_are_refused(key, value):
    with pytest.raises(InputError, match=f"config.defense.{key} = {value} must"):
        fldetector(**{key: value})
