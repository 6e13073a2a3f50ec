"""SparseFed: what is applied, and what is kept for later."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.sparsefed import SparseFedState, sparsefed, sparsify

apply_top = jax.jit(sparsify)


def test_two_rounds_by_hand():
    state = SparseFedState(jnp.zeros(4), jnp.zeros(4))
    update = jnp.array([1.0, -4.0, 2.0, 0.0])
    state, applied = apply_top(state, update, 0.25, 0.5)
    assert applied.tolist() == [0, -4, 0, 0]
    assert state.error.tolist() == [1, 0, 2, 0]
    assert state.momentum.tolist() == [1, 0, 2, 0]
    # Momentum halves: (0.5, 0, 1, 0) + update; the error grows by it.
    state, applied = apply_top(state, update, 0.25, 0.5)
    assert applied.tolist() == [0, 0, 5, 0]
    assert state.error.tolist() == [2.5, -4, 0, 0]
    assert state.momentum.tolist() == [1.5, -4, 0, 0]


def test_nothing_is_lost_without_momentum():
    rng = np.random.default_rng(0)
    state, total, sent = SparseFedState(jnp.zeros(40), jnp.zeros(40)), 0, 0
    for _ in range(5):
        update = jnp.asarray(rng.normal(size=40), jnp.float32)
        state, applied = apply_top(state, update, 0.2, 0.0)
        assert (applied != 0).sum() == 8
        total, sent = total + update, sent + applied
    np.testing.assert_allclose(sent + state.error, total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("fraction", "count"), [(1e-6, 1), (0.26, 3), (1.0, 10)])
def test_number_of_coordinates_is_the_rounded_fraction(one_round, fraction, count):
    updates = np.random.default_rng(0).normal(size=(3, 10))
    _, result = one_round(sparsefed(fraction=fraction), updates)
    assert (result.update != 0).sum() == count


def test_updates_are_clipped_before_the_mean(one_round):
    _, result = one_round(
        sparsefed(fraction=1.0, clip_norm=1.0), [[3.0, 4.0], [0.0, 0.2]]
    )
    np.testing.assert_allclose(result.update, [0.3, 0.5], rtol=1e-6)


def test_a_round_without_clients_changes_no_memory(
    make_cohort, make_context, make_spec
):
    defense = sparsefed(fraction=0.5, momentum=0.9)
    state = defense.init(make_spec(2, num_params=4))
    cohort, context = make_cohort(np.arange(8.0).reshape(2, 4)), make_context(4)
    state, *_ = defense.aggregate(state, cohort, context)
    empty = cohort._replace(weights=jnp.zeros(2))
    after, _, result = defense.aggregate(state, empty, context)
    np.testing.assert_array_equal(after[1].error, state[1].error)
    np.testing.assert_array_equal(after[1].momentum, state[1].momentum)
    assert np.asarray(state[1].error).any()
    assert not np.asarray(result.update).any()


@pytest.mark.parametrize(
    ("key", "value"), [("fraction", 1.5), ("momentum", -0.1), ("clip_norm", 0)]
)
def test_bad_arguments_are_refused(key, value):
    with pytest.raises(InputError, match=f"config.defense.{key} = {value} must"):
        sparsefed(**{key: value})
