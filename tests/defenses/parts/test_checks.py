"""Checks of hyper-parameters, and rules that are told a traced number."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.parts.checks import check_choice, check_quorum, check_range
from fedjax_sim.defenses.trimmed_mean import trimmed_mean


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, -3])
def test_numbers_outside_a_range(value):
    with pytest.raises(InputError, match=r"config.defense.share = .* between 0 and 1"):
        check_range("share", value, 0, 1)


def test_numbers_without_an_upper_end():
    check_range("count", 10**9, 1)
    for value in (0, math.inf):
        with pytest.raises(InputError, match=f"count = {value} must be at least 1"):
            check_range("count", value, 1)


def test_what_is_no_number_is_left_alone():
    check_range("count", None, 1)
    jax.jit(lambda x: check_range("count", x, 1))(-5)


def test_names():
    check_choice("mode", "slow", Literal["slow", "fast"])
    with pytest.raises(InputError, match=r"mode = 'fats' .* did you mean 'fast'"):
        check_choice("mode", "fats", Literal["slow", "fast"])


def test_quorum(make_spec):
    check_quorum(make_spec(9), 3, 2, 3)
    with pytest.raises(InputError, match="num_byzantine = 4 must be at most 3 in a"):
        check_quorum(make_spec(9), 4, 2, 3)


def test_a_sweep_over_f_compiles_once(make_cohort, make_context, make_spec):
    cohort = make_cohort([[1.0], [2.0], [6.0], [7.0], [100.0]])
    context, spec = make_context(1), make_spec(5, num_params=1)

    def update(f):
        defense = trimmed_mean(num_byzantine=f)
        _, _, result = defense.aggregate(defense.init(spec), cohort, context)
        return result.update[0]

    updates = jax.jit(jax.vmap(update))(jnp.arange(3))
    np.testing.assert_allclose(updates, [23.2, 5, 6], rtol=1e-6)
