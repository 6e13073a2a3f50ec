"""Krum and Multi-Krum."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.defenses.krum import krum_scores
from fedjax_sim.defenses.multikrum import multikrum
from fedjax_sim.defenses.parts.ranking import ranks


@pytest.fixture
def select(make_cohort, make_context, make_spec):
    """Returns a function to the surviving ids, the scores and the aggregate."""

    def run(updates, ids=None, weights=None, num_malicious=0, **arguments):
        cohort = make_cohort(updates, ids, weights)
        n, d = cohort.updates.shape
        defense = multikrum(**arguments)
        state = defense.init(make_spec(n, num_malicious=num_malicious, num_params=d))
        _, judged, result = jax.jit(defense.aggregate)(state, cohort, make_context(d))
        kept = np.asarray(judged.client_ids)[np.asarray(judged.weights) > 0]
        return sorted(kept.tolist()), judged.scores["krum_score"], result.update

    return run


def reference(updates, f, squared, k=None, m=None):
    """Multi-Krum in plain NumPy: scores and selected rows."""
    n = len(updates)
    k = max(n - f - 2, 1) if k is None else k
    m = n - f if m is None else m
    scores = []
    for i in range(n):
        others = np.delete(updates, i, axis=0).astype(np.float64)
        distances = np.linalg.norm(others - updates[i], axis=1)
        scores.append(np.sort(distances ** (2 if squared else 1))[:k].sum())
    return np.array(scores), np.sort(np.argsort(scores, kind="stable")[:m])


LINE = [[0.0], [1.0], [3.0], [6.0], [20.0]]


def test_scores_and_selection_by_hand(select):
    # n = 5, f = 1: k = 2 neighbours, m = 4 clients.
    ids, scores, update = select(LINE, num_byzantine=1)
    assert ids == [0, 1, 2, 3]
    np.testing.assert_allclose(scores, [10, 5, 13, 34, 485], rtol=1e-5)
    np.testing.assert_allclose(update, [2.5], rtol=1e-6)
    ids, _, update = select(LINE, num_byzantine=1, num_selected=1)
    assert ids == [1]
    assert update.tolist() == [1.0]


@pytest.mark.parametrize("rule", ["krum", "multikrum", "bulyan_leadfl"])
def test_distances_over_the_whole_state(make_cohort, make_context, make_spec, rule):
    rng = np.random.default_rng(5)
    updates, buffers = rng.normal(size=(2, 10, 6))
    arguments = {} if rule == "bulyan_leadfl" else {"num_byzantine": 2}

    def judge(cohort, **more):
        defense = DEFENSES[rule].factory(**arguments, **more)
        sizes = cohort.updates.shape[1], cohort.buffers.shape[1]
        state = defense.init(make_spec(10, 40, 4, *sizes))
        judged = defense.aggregate(state, cohort, make_context(*sizes))[1]
        return judged.scores["krum_score"], judged.weights

    beside = make_cohort(updates)._replace(buffers=jnp.asarray(buffers, jnp.float32))
    joined = judge(make_cohort(np.concatenate([updates, buffers], axis=1)))
    whole = judge(beside, whole_state=True)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), whole, joined)
    jax.tree.map(
        np.testing.assert_array_equal, judge(beside), judge(make_cohort(updates))
    )


def test_scores_and_selection_of_the_authors_by_hand(select):
    # f = floor(5 / 2) = 2: k = 1 neighbour, m = 3 clients, Euclidean distances.
    ids, scores, update = select(LINE, variant="authors")
    assert ids == [0, 1, 2]
    np.testing.assert_allclose(scores, [1, 1, 2, 3, 14], rtol=1e-5)
    np.testing.assert_allclose(update, [4 / 3], rtol=1e-6)


@pytest.mark.parametrize("variant", ["paper", "authors"])
@pytest.mark.parametrize("n", [5, 10, 25])
def test_against_numpy(select, variant, n):
    rng = np.random.default_rng(n)
    updates = rng.normal(size=(n, 300)).astype(np.float32)
    updates[: n // 5] += 0.5
    arguments = {"num_byzantine": n // 5} if variant == "paper" else {}
    f = n // 5 if variant == "paper" else n // 2
    ids, scores, update = select(updates, variant=variant, **arguments)
    expected, rows = reference(updates, f, squared=variant == "paper")
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert ids == rows.tolist()
    np.testing.assert_allclose(update, updates[rows].mean(0), rtol=1e-4, atol=1e-6)


def test_counts_follow_the_included_clients(select):
    rng = np.random.default_rng(0)
    updates = rng.normal(size=(9, 50)).astype(np.float32)
    present = np.array([0, 1, 3, 4, 6, 7, 8])
    weights = np.isin(np.arange(9), present)
    ids, scores, _ = select(updates, weights=weights, num_byzantine=2)
    expected, rows = reference(updates[present], 2, squared=True)
    assert ids == present[rows].tolist()
    np.testing.assert_allclose(np.asarray(scores)[present], expected, rtol=1e-4)
    assert np.isinf(np.asarray(scores)[[2, 5]]).all()


@pytest.mark.parametrize("num_present", [1, 2, 3])
def test_few_included_clients_still_select_one(select, num_present):
    weights = np.arange(7) < num_present
    updates = np.arange(7.0)[:, None]
    ids, *_ = select(updates, weights=weights, num_byzantine=2)
    assert 1 <= len(ids) <= num_present


def test_ties_go_to_the_smaller_id(select):
    updates = np.zeros((6, 3))
    ids, *_ = select(updates, ids=[9, 4, 7, 1, 8, 3], num_byzantine=1, num_selected=2)
    assert ids == [1, 3]


def test_neighbours_and_selected_may_be_given(select):
    rng = np.random.default_rng(3)
    updates = rng.normal(size=(10, 40)).astype(np.float32)
    ids, scores, _ = select(updates, num_neighbors=7, num_selected=5)
    expected, rows = reference(updates, None, squared=True, k=7, m=5)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert ids == rows.tolist()


def test_f_defaults_to_the_threat_model(select):
    # ceil(10 * 5 / 40) = 2 malicious clients to expect.
    updates = np.random.default_rng(0).normal(size=(10, 40))
    assert len(select(updates, num_malicious=5)[0]) == 8


def test_f_may_be_traced(make_cohort, make_context, make_spec):
    cohort, spec = make_cohort(LINE), make_spec(5, num_params=1)

    @jax.jit
    def count(f):
        defense = multikrum(num_byzantine=f)
        _, judged, _ = defense.aggregate(defense.init(spec), cohort, make_context(1))
        return (judged.weights > 0).sum()

    assert [int(count(f)) for f in (0, 1, 2)] == [5, 4, 3]


@pytest.mark.parametrize(
    ("n", "arguments", "message"),
    [
        (6, {"num_byzantine": 2}, "num_byzantine = 2 must be at most 1 .* of 6"),
        (5, {"num_byzantine": -1}, "num_byzantine = -1 must be at least 0"),
        (5, {"num_selected": 0}, "num_selected = 0 must be at least 1"),
        (5, {"num_selected": 6}, "num_selected = 6 must lie between 1 and 5"),
        (5, {"num_neighbors": 5}, "num_neighbors = 5 must lie between 1 and 4"),
        (4, {}, "num_byzantine = 1 must be at most 0 in a cohort of 4"),
    ],
)
def test_impossible_federations_are_refused(make_spec, n, arguments, message):
    with pytest.raises(InputError, match=message):
        multikrum(**arguments).init(make_spec(n, num_malicious=4))


def test_contradictory_arguments_are_refused():
    with pytest.raises(InputError, match=r"num_byzantine = 2 .*variant = 'authors'"):
        multikrum(variant="authors", num_byzantine=2)
    with pytest.raises(InputError, match="did you mean 'authors'"):
        multikrum(variant="author")


def test_scores_and_ranking_alone():
    distances = jnp.array([[0.0, 1, 2], [1, 0, 4], [2, 4, 0]])
    every = jnp.ones(3, bool)
    assert krum_scores(distances, every, 1).tolist() == [1, 1, 2]
    assert krum_scores(distances, every, 99).tolist() == [3, 5, 6]
    scores, ids = jnp.array([1.0, 1, 2]), jnp.array([5, 2, 0])
    assert ranks(scores, every, ids).tolist() == [1, 0, 2]
    assert ranks(scores, ids < 5, ids).tolist() == [2, 0, 1]
