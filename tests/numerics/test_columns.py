"""Statistics of masked rows against NumPy, in one and in several blocks."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.numerics.columns import (
    BLOCK,
    map_columns,
    masked_mean,
    masked_std,
    reduce_columns,
)

ROWS = jnp.array([True, False, True, True, False])


@pytest.mark.parametrize("columns", [0, 7, BLOCK, 2 * BLOCK + 5])
def test_statistics_see_the_rows_that_count_only(columns):
    drawn = np.random.default_rng(0).normal(size=(5, columns)).astype(np.float32)
    rows = jnp.asarray(drawn).at[1].set(jnp.nan).at[4].set(1e30)
    known = drawn[np.asarray(ROWS)].astype(np.float64)
    mean = masked_mean(rows, ROWS)
    np.testing.assert_allclose(mean, known.mean(0), rtol=1e-5, atol=1e-6)
    for ddof in (0, 1):
        std = masked_std(rows, ROWS, ddof)
        np.testing.assert_allclose(std, known.std(0, ddof=ddof), rtol=1e-5, atol=1e-7)


def test_a_large_mean_does_not_drown_the_deviation():
    drawn = np.random.default_rng(1).normal(size=(5, 30)) * 1e-2
    rows = jnp.asarray(1e3 + drawn, jnp.float32)
    expected = np.asarray(rows)[np.asarray(ROWS)].astype(np.float64).std(0)
    # A mean of 1e3 is known to 3e-5, which adds its square over 2 std: at most 2e-6.
    np.testing.assert_allclose(
        masked_std(rows, ROWS, 0), expected, rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_rows_have_no_deviation(count):
    rows = jnp.ones((5, 3)) * jnp.arange(5.0)[:, None]
    mask = jnp.arange(5) < count
    assert not masked_std(rows, mask, 1).any()
    assert not masked_mean(rows, mask).any()


def test_the_last_block_overlaps():
    rows = jnp.arange(22.0).reshape(2, 11)
    reduced = reduce_columns(lambda block: block[0] * block[1], rows, width=4)
    np.testing.assert_array_equal(reduced, rows[0] * rows[1])


@pytest.mark.parametrize("columns", [0, 3, 4, 11])
def test_every_column_is_changed_once(columns):
    rows = jnp.arange(2.0 * columns).reshape(2, columns)
    changed = map_columns(lambda block: block[::-1] + 1, rows, width=4)
    np.testing.assert_array_equal(changed, rows[::-1] + 1)
