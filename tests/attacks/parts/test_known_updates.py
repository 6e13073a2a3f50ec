"""Masked statistics against NumPy on the rows that count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attacks.views import make_view

from fedjax_sim.attacks.parts import known_updates

ROWS = jnp.array([True, False, True, True, False])


def test_statistics_see_the_rows_that_count_only():
    view = make_view(ROWS)
    updates = view.updates.at[1].set(jnp.nan).at[4].set(1e30)
    known = np.asarray(updates)[np.asarray(ROWS)].astype(np.float64)

    np.testing.assert_allclose(
        known_updates.mean(updates, ROWS), known.mean(0), rtol=1e-5, atol=1e-6
    )
    for ddof in (0, 1):
        np.testing.assert_allclose(
            known_updates.std(updates, ROWS, ddof), known.std(0, ddof=ddof), rtol=1e-5
        )
    centered = known_updates.centered(updates, ROWS)
    assert not centered[~ROWS].any()
    np.testing.assert_allclose(centered[ROWS], known - known.mean(0), atol=1e-6)


def test_a_large_mean_does_not_drown_the_deviation():
    updates = 1e3 + make_view(ROWS).updates * 1e-2
    expected = np.asarray(updates)[np.asarray(ROWS)].astype(np.float64).std(0)
    np.testing.assert_allclose(known_updates.std(updates, ROWS, 0), expected, rtol=1e-2)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_rows_have_no_deviation(count):
    view = make_view(jnp.arange(5) < count)
    assert not known_updates.std(view.updates, view.malicious, 1).any()


def test_whose_updates_are_known():
    view = make_view(ROWS)._replace(present=jnp.array([True] * 4 + [False]))
    compromised = known_updates.known_rows(view, "compromised")
    benign = known_updates.known_rows(view, "benign")
    assert compromised.tolist() == [True, False, True, True, False]
    assert benign.tolist() == [False, True, False, False, False]
    assert known_updates.declared("compromised") == ("own_updates",)
    assert known_updates.declared("benign") == ("benign_updates",)


def test_draws_belong_to_a_client_and_a_round():
    view = make_view(ROWS)
    draw = lambda view: known_updates.draw_rows(
        view, lambda key: jax.random.normal(key, (20,))
    )
    rows = draw(view)
    assert rows[ROWS].all() and not rows[~ROWS].any()
    assert (rows[0] != rows[2]).any()
    moved = draw(view._replace(client_ids=view.client_ids[::-1], malicious=ROWS[::-1]))
    np.testing.assert_array_equal(moved[::-1], rows)
    later = draw(view._replace(key=jax.random.key(1)))
    assert (later[ROWS] != rows[ROWS]).any()
