"""Fang's attack on Krum, against a search that writes every simulated row out."""

import numpy as np
import pytest
from attacks.views import crafted, make_view

from fedjax_sim.attacks.fang_krum import fang_krum
from fedjax_sim.core.errors import InputError

PARTIAL, ANALYTIC, FULL = (
    fang_krum(form=form) for form in ("partial", "analytic", "full")
)


def first_pick(rows: np.ndarray, num_neighbors: int) -> int:
    distances = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    nearest = np.sort(distances, axis=1)[:, 1 : num_neighbors + 1]
    return int(nearest.sum(1).argmin())


def partial_scale(known: np.ndarray) -> float:
    q = len(known)
    trend = np.sign(known.mean(0))
    for copies in range(1, q):
        scale = 1.0
        while True:
            rows = np.concatenate([known, np.tile(-scale * trend, (copies, 1))])
            picked = first_pick(rows, max(q - 2, 1)) >= q
            if picked or scale <= 2e-5:
                break
            scale /= 2
        if picked:
            break
    return scale


def full_scale(benign: np.ndarray, trend: np.ndarray, attackers: int) -> float:
    scale, n = 1.0, len(benign) + attackers
    while scale > 1e-5:
        rows = np.concatenate([np.tile(-scale * trend, (attackers, 1)), benign])
        if first_pick(rows, n - attackers - 2) < attackers:
            break
        scale /= 2
    return scale


def near(count: int, others: int, seed: int, spread: float):
    """A cohort whose updates share a trend, as those of one round do."""
    view = make_view([False] * others + [True] * count, 30, seed=seed)
    return view._replace(updates=0.3 * view.updates[0] + spread * view.updates)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("count", "spread"), [(2, 0.1), (3, 0.5), (6, 0.1), (6, 0.02)])
def test_partial_search_ends_where_a_plain_loop_does(count, spread, seed):
    view = near(count, 3, seed, spread)
    known = np.asarray(view.updates[3:], np.float64)
    expected = -partial_scale(known) * np.sign(known.mean(0))
    np.testing.assert_allclose(crafted(PARTIAL, view), [expected] * count, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("count", "spread"), [(2, 0.5), (5, 0.1)])
def test_full_search_ends_where_a_plain_loop_does(count, spread, seed):
    view = near(count, 12, seed, spread)
    rows = np.asarray(view.updates, np.float64)
    trend = np.sign(rows[first_pick(rows, len(rows) - count - 2)])
    expected = -full_scale(rows[:12], trend, count) * trend
    sent = crafted(FULL, view)
    np.testing.assert_allclose(sent, [expected] * count, rtol=1e-5)


def test_partial_search_does_not_look_at_benign_clients():
    view = near(6, 3, 0, 0.1)
    other = view._replace(updates=view.updates.at[:3].set(7.0))
    np.testing.assert_array_equal(crafted(PARTIAL, view), crafted(PARTIAL, other))


def test_analytic_search_moves_against_the_benign_trend():
    view = near(5, 12, 1, 0.1)
    sent = crafted(ANALYTIC, view)
    trend = np.sign(np.asarray(view.updates[:12]).mean(0))
    scale = -sent / trend
    assert (scale > 1e-5).all() and np.ptp(scale) == 0
    np.testing.assert_array_equal(np.sign(sent[0]), -trend)


def test_one_attacker_alone_sends_zeros():
    assert not crafted(PARTIAL, make_view([False, True, False])).any()


def test_only_the_full_form_knows_benign_updates():
    knowledge = {form: fang_krum(form=form).knowledge for form in ("partial", "full")}
    assert "benign_updates" not in knowledge["partial"]
    assert "benign_updates" in knowledge["full"]
    with pytest.raises(InputError, match=r"config\.attack\.form = 'b'"):
        fang_krum(form="b")
