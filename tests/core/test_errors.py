"""Checks of numbers and names: one line with key, value and what is allowed."""

import math
from typing import Literal

import jax
import pytest

from fedjax_sim.core.errors import InputError, check_choice, check_range


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, -3])
def test_numbers_outside_a_range(value):
    with pytest.raises(InputError) as problem:
        check_range("defense", "share", value, 0, 1)

    expected = f"config.defense.share = {value} must lie between 0 and 1"
    assert str(problem.value) == expected


def test_numbers_without_an_upper_end():
    check_range("defense", "count", 10**9, 1)
    for value in (0, math.inf):
        with pytest.raises(InputError, match=f"count = {value} must be at least 1$"):
            check_range("defense", "count", value, 1)


def test_numbers_above_the_lower_end():
    check_range("attack", "radius", 1e-30, 0, open_low=True)
    with pytest.raises(InputError, match=r"attack\.radius = 0\.0 must be above 0$"):
        check_range("attack", "radius", 0.0, 0, open_low=True)
    with pytest.raises(InputError, match=r"must be above 0 and at most 1$"):
        check_range("attack", "decay", 2, 0, 1, open_low=True)


def test_large_bounds_are_written_in_full():
    with pytest.raises(InputError, match=r"must lie between 0 and 4294967295$"):
        check_range("partition", "seed", 2**32, 0, 2**32 - 1)


def test_what_is_no_number_is_left_alone():
    assert check_range("defense", "count", None, 1) is None
    unchecked = jax.jit(lambda x: (check_range("defense", "count", x, 1), x)[1])
    assert unchecked(-5) == -5


def test_names_that_are_no_choice_are_refused_with_the_nearest():
    check_choice("defense", "mode", "slow", Literal["slow", "fast"])
    with pytest.raises(InputError, match=r"mode = 'fats' .* did you mean 'fast'"):
        check_choice("defense", "mode", "fats", Literal["slow", "fast"])
    with pytest.raises(InputError, match=r"form = '' is not allowed; allowed: full"):
        check_choice("attack", "form", "", ("full",))
