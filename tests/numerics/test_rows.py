"""Rows in another order, by both ways to take them."""

import jax
import numpy as np
import pytest

from fedjax_sim.numerics import rows as module
from fedjax_sim.numerics.rows import take_rows

ROWS = np.random.default_rng(0).normal(size=(5, 3, 4)).astype("f4")
ORDER = np.array([4, 0, 0, 2])


@pytest.fixture(autouse=True)
def _short_windows(monkeypatch):
    monkeypatch.setattr(module, "_WINDOW", 12)


@pytest.mark.parametrize("way", [take_rows, module._one_by_one])
def test_rows_of_an_order(way):
    np.testing.assert_array_equal(jax.jit(way)(ROWS, ORDER), ROWS[ORDER])
    both = jax.jit(jax.vmap(way))(
        np.stack([ROWS, -ROWS]), np.stack([ORDER, ORDER[::-1]])
    )
    np.testing.assert_array_equal(both[0], ROWS[ORDER])
    np.testing.assert_array_equal(both[1], -ROWS[ORDER[::-1]])


@pytest.mark.parametrize(
    ("rows", "platform", "gathers"),
    [(ROWS, "tpu", False), (ROWS[:, 0], "tpu", True), (ROWS, "cuda", True)],
)
def test_a_tpu_gathers_no_long_rows(rows, platform, gathers):
    traced = jax.jit(take_rows).trace(rows, ORDER)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("gather" in text) == gathers
