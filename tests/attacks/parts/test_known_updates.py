"""What an attacker knows, and draws."""

import jax
import jax.numpy as jnp
import numpy as np
from attacks.views import make_view

from fedjax_sim.attacks.parts import known_updates

ROWS = jnp.array([True, False, True, True, False])


def test_centred_rows_are_those_that_count():
    view = make_view(ROWS)
    updates = view.updates.at[1].set(jnp.nan).at[4].set(1e30)
    known = np.asarray(updates)[np.asarray(ROWS)].astype(np.float64)
    centered = known_updates.centered(updates, ROWS)
    assert not centered[~ROWS].any()
    np.testing.assert_allclose(centered[ROWS], known - known.mean(0), atol=1e-6)


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
