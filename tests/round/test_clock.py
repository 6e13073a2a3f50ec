"""The phase clock: beside the round, not in it."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import build, start_state

from fedjax_sim.round.clock import timed


def test_a_clock_changes_nothing_but_adds_its_readings():
    built = build()
    state, origin = start_state(built), time.monotonic()
    outcomes = [
        jax.jit(timed(begun)(built.parts))(state, built.inputs)
        for begun in (origin, None)
    ]
    (with_clock, (report, clock)), (without, (plain, nothing)) = outcomes
    np.testing.assert_array_equal(with_clock.params, without.params)
    np.testing.assert_array_equal(report.weights, plain.weights)
    assert nothing == ()
    trained, done = np.asarray(clock) @ [1, 1e-6]
    assert 0 < trained <= done <= time.monotonic() - origin


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_a_round_without_a_clock_lowers_for_another_platform(platform):
    built = build({"execution.lowering": "native", "execution.clients": "map"})
    inputs = jax.tree.map(jnp.asarray, built.inputs)
    state = jax.eval_shape(built.init, inputs)
    program = jax.jit(timed(None)(built.parts)).trace(state, inputs)
    assert "stablehlo" in program.lower(lowering_platforms=(platform,)).as_text()
