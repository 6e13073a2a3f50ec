"""Krum: which client it takes, and how many Byzantine clients it is told."""

import jax
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.krum import krum

LINE = [[0.0], [1.0], [3.0], [6.0], [20.0]]


@pytest.fixture
def select(make_cohort, make_context, make_spec):
    """Returns a function to the surviving ids and the scores."""

    def run(updates, ids=None, weights=None, num_malicious=0, **arguments):
        cohort = make_cohort(updates, ids, weights)
        n, d = cohort.updates.shape
        defense = krum(**arguments)
        state = defense.init(make_spec(n, num_malicious=num_malicious, num_params=d))
        _, judged, _ = jax.jit(defense.aggregate)(state, cohort, make_context(d))
        kept = np.asarray(judged.client_ids)[np.asarray(judged.weights) > 0]
        return kept.tolist(), judged.scores["krum_score"]

    return run


def test_chosen_client_by_hand(select):
    # n = 5, f = 1: k = 2 neighbours.
    ids, scores = select(LINE, num_byzantine=1)
    assert ids == [1]
    np.testing.assert_allclose(scores, [10, 5, 13, 34, 485], rtol=1e-5)


def test_chosen_client_of_the_authors_by_hand(select):
    # f = 0 + 1: k = 2 neighbours, Euclidean distances.
    ids, scores = select(LINE, variant="authors", num_byzantine=0)
    assert ids == [1]
    np.testing.assert_allclose(scores, [4, 3, 5, 8, 31], rtol=1e-5)


def test_absent_clients_lower_the_number_of_neighbours(select):
    # Four present, f = 1: k = 1 neighbour; 0 and 1 tie, and the smaller id wins.
    weights = [1, 1, 1, 0, 1]
    ids, scores = select(LINE, ids=[7, 2, 5, 0, 9], weights=weights, num_byzantine=1)
    assert ids == [2]
    np.testing.assert_allclose(scores, [1, 1, 4, np.inf, 289], rtol=1e-5)


@pytest.mark.parametrize(
    ("variant", "cohort", "malicious", "population", "expected"),
    [
        ("paper", 100, 28, 100, 28),
        ("authors", 100, 28, 100, 30),  # 0.28 * 100 = 28.000000000000004
        ("paper", 10, 5, 40, 2),
        ("authors", 10, 5, 40, 3),
    ],
)
def test_f_from_the_threat_model(
    make_spec, variant, cohort, malicious, population, expected
):
    spec = make_spec(cohort, population=population, num_malicious=malicious)
    assert krum(variant=variant).init(spec)[0] == expected


@pytest.mark.parametrize(
    ("n", "arguments", "message"),
    [
        (6, {"num_byzantine": 2}, "num_byzantine = 2 must be at most 1 .* of 6"),
        (5, {"num_byzantine": -1}, "num_byzantine = -1 must be at least 0"),
        (5, {"num_neighbors": 5}, "num_neighbors = 5 must lie between 1 and 4"),
        (4, {}, "num_byzantine = 1 must be at most 0 in a cohort of 4"),
    ],
)
def test_impossible_federations_are_refused(make_spec, n, arguments, message):
    with pytest.raises(InputError, match=message):
        krum(**arguments).init(make_spec(n, num_malicious=4))


def test_an_unknown_variant_is_refused():
    with pytest.raises(InputError, match="did you mean 'authors'"):
        krum(variant="author")
