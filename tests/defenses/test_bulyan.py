"""Bulyan, and what the code of LeadFL calls so."""

import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.bulyan import bulyan
from fedjax_sim.defenses.bulyan_leadfl import bulyan_leadfl


def reference(updates, f):
    """Bulyan in plain double-precision NumPy: selected rows in order, aggregate."""
    left, chosen = list(range(len(updates))), []
    squares = ((updates[:, None] - updates[None]) ** 2).sum(-1)
    while len(chosen) < len(updates) - 2 * f:
        k = max(len(left) - f - 2, 1)
        scores = [
            np.sort([squares[i, j] for j in left if j != i])[:k].sum() for i in left
        ]
        chosen.append(left.pop(int(np.argmin(scores))))
    rows = updates[chosen]
    gaps = np.abs(rows - np.median(rows, axis=0))
    nearest = np.argsort(gaps, axis=0, kind="stable")[: len(rows) - 2 * f]
    return chosen, np.take_along_axis(rows, nearest, axis=0).mean(0)


@pytest.mark.parametrize(("n", "f"), [(15, 3), (20, 3), (20, 4)])
def test_selection_and_mean_against_numpy(one_round, survivors, n, f):
    updates = np.random.default_rng(n).normal(size=(n, 25)).astype("f4")
    updates[:f] += 0.7
    judged, result = one_round(bulyan(num_byzantine=f), updates)
    chosen, expected = reference(updates.astype(float), f)
    assert survivors(judged) == sorted(chosen)
    place = np.asarray(judged.scores["place"])
    np.testing.assert_array_equal(place[chosen], np.arange(len(chosen)))
    assert (np.delete(place, chosen) == n).all()
    np.testing.assert_allclose(result.update, expected, rtol=1e-5, atol=1e-6)


def test_absent_clients_lower_the_counts(one_round, survivors):
    updates = np.random.default_rng(3).normal(size=(18, 25)).astype("f4")
    present = np.arange(18) % 6 > 0
    judged, result = one_round(bulyan(num_byzantine=3), updates, weights=present)
    chosen, expected = reference(updates[present].astype(float), 3)
    assert survivors(judged) == sorted(np.flatnonzero(present)[chosen].tolist())
    np.testing.assert_allclose(result.update, expected, rtol=1e-5, atol=1e-6)


def test_too_few_clients_are_refused(make_spec):
    with pytest.raises(
        InputError, match=r"num_byzantine = 3 must be at most 2 .* of 14"
    ):
        bulyan(num_byzantine=3).init(make_spec(14))
    bulyan(num_byzantine=3).init(make_spec(15))


def test_leadfl_takes_ranks_two_to_four(one_round, survivors):
    line = [[0.0], [1.0], [3.0], [6.0], [20.0], [22.0]]
    # One neighbour: scores 1, 1, 4, 9, 4, 4; the best, 0, is discarded.
    judged, result = one_round(bulyan_leadfl(num_neighbors=1), line)
    np.testing.assert_allclose(judged.scores["krum_score"], [1, 1, 4, 9, 4, 4])
    assert survivors(judged) == [1, 2, 4]
    np.testing.assert_allclose(result.update, [8], rtol=1e-6)


@pytest.mark.parametrize(("present", "expected"), [(1, [0]), (2, [1]), (3, [0, 2])])
def test_leadfl_with_few_clients(one_round, survivors, present, expected):
    weights = np.arange(7) < present
    updates = np.array([[0.0], [1], [3], [0], [0], [0], [0]])
    judged, _ = one_round(bulyan_leadfl(), updates, weights=weights)
    assert survivors(judged) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_neighbors": 10}, "num_neighbors = 10 must lie between 1 and 9"),
        ({"rank_stop": 11}, "rank_stop = 11 must lie between 1 and 10"),
        ({"rank_start": 4}, "rank_start = 4 must lie between 0 and 3"),
    ],
)
def test_leadfl_counts_beyond_the_cohort(make_spec, arguments, message):
    with pytest.raises(InputError, match=message):
        bulyan_leadfl(**arguments).init(make_spec(10))
