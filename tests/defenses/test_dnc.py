"""DnC: projections, what is removed, and which coordinates are looked at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.dnc import dnc, keep_inliers, outlier_scores


def test_scores_against_a_singular_value_decomposition():
    rows = np.random.default_rng(0).normal(size=(8, 30)).astype("f4")
    mask = np.array([1, 1, 0, 1, 1, 1, 1, 0], bool)
    rows[~mask] = 1e30
    centred = rows[mask].astype(float) - rows[mask].mean(0)
    v = np.linalg.svd(centred)[2][0]
    scores, unit = jax.jit(outlier_scores)(rows, mask)
    actual = np.asarray(scores * unit**2)
    np.testing.assert_allclose(actual[mask], (centred @ v) ** 2, rtol=1e-4, atol=1e-5)
    assert not actual[~mask].any()


def test_attackers_in_one_direction_are_removed(one_round, survivors):
    rng = np.random.default_rng(1)
    updates = rng.normal(size=(12, 200))
    updates[[3, 7]] += 2 * rng.normal(size=200)
    judged, result = one_round(dnc(num_byzantine=2), updates)
    kept = [i for i in range(12) if i not in (3, 7)]
    assert survivors(judged) == kept
    np.testing.assert_allclose(
        result.update, updates[kept].mean(0), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize(("c", "left"), [(0.0, 10), (0.5, 9), (1.5, 6), (9.0, 1)])
def test_as_many_are_removed_as_the_fraction_says(one_round, survivors, c, left):
    updates = np.random.default_rng(2).normal(size=(10, 30))
    # f = ceil(10 * 12 / 40) = 3 of the threat model, floor(3 c) removed.
    judged, _ = one_round(dnc(filter_fraction=c), updates, num_malicious=12)
    assert len(survivors(judged)) == left


def test_survivors_are_those_of_all_iterations(make_cohort, survivors):
    # The first coordinate accuses client 2, the second client 0.
    cohort = make_cohort([[0.0, 9.0], [1.0, 0.0], [9.0, 1.0], [0.5, 0.5]])
    judged = keep_inliers(cohort, jnp.array([[0], [1]]), 1)
    assert survivors(judged) == [1, 3]


def test_the_last_iteration_decides_where_nobody_is_left(make_cohort, survivors):
    # The first coordinate leaves client 1 alone, the second client 0.
    cohort = make_cohort([[0.0, 5.0], [1.0, 9.0], [9.0, 4.9]])
    assert survivors(keep_inliers(cohort, jnp.array([[0], [1]]), 2)) == [0]
    assert survivors(keep_inliers(cohort, jnp.array([[1], [0]]), 2)) == [1]


def test_coordinates_are_drawn_afresh(one_round):
    updates = np.random.default_rng(3).normal(size=(6, 500))
    scores = [
        one_round(
            dnc(num_byzantine=1, num_coordinates=10),
            updates,
            context={"key": jax.random.key(k)},
        )[0].scores["outlier_score"]
        for k in (0, 0, 1)
    ]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.allclose(scores[0], scores[2])
    # All coordinates, where there are fewer than asked for.
    every = one_round(dnc(num_byzantine=1), updates)[0].scores["outlier_score"]
    scores, unit = outlier_scores(jnp.asarray(updates, "f4"), jnp.ones(6, bool))
    np.testing.assert_allclose(every, scores * unit**2, rtol=1e-3)


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_iterations", 0), ("num_coordinates", 0), ("filter_fraction", -1)],
)
def test_bad_arguments_are_refused(key, value):
    with pytest.raises(InputError, match=f"config.defense.{key} = {value} must"):
        dnc(**{key: value})
