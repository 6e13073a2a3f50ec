"""ProDiGy: its weights against NumPy, and its edges."""

import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.prodigy import prodigy


def reference(updates, f):
    """ProDiGy's weights from the definitions, in plain double-precision NumPy."""
    n, size = len(updates), max(f, 2)
    squares = ((updates[:, None] - updates[None]) ** 2).sum(-1)
    scores = []
    for i in range(n):
        others = [j for j in np.argsort(squares[i], kind="stable") if j != i]
        group = updates[[i, *others[: size - 1]]]
        a = np.linalg.norm(group.std(0)) / np.linalg.norm(group.mean(0))
        b = squares[i, others[size - 1 : n - size - 1]].sum()
        scores.append(a / b)
    scores = np.array(scores)
    scores[np.argsort(scores, kind="stable")[:f]] = 0
    return scores / scores.sum()


@pytest.mark.parametrize(("n", "f"), [(10, 3), (9, 1)])
def test_against_numpy(one_round, n, f):
    updates = np.random.default_rng(n + f).normal(size=(n, 40)) + 0.5
    judged, result = one_round(prodigy(num_byzantine=f), updates)
    expected = reference(updates.astype("f4").astype(float), f)
    weights = np.asarray(judged.weights)
    np.testing.assert_allclose(weights / weights.sum(), expected, rtol=1e-3)
    np.testing.assert_allclose(result.update, expected @ updates, rtol=1e-3, atol=1e-5)


def test_absent_clients_lower_the_counts(one_round):
    updates = np.random.default_rng(5).normal(size=(12, 40)) + 0.5
    present = np.arange(12) % 4 > 0
    judged, _ = one_round(prodigy(num_byzantine=2), updates, weights=present)
    weights = np.asarray(judged.weights)[present]
    expected = reference(updates[present].astype("f4").astype(float), 2)
    np.testing.assert_allclose(weights / weights.sum(), expected, rtol=1e-3)


def test_identical_attackers_get_nothing(one_round, survivors):
    updates = np.random.default_rng(1).normal(size=(10, 50)) + 0.5
    updates[[2, 5, 8]] = 0.1
    judged, _ = one_round(prodigy(num_byzantine=3), updates)
    assert survivors(judged) == [0, 1, 3, 4, 6, 7, 9]


@pytest.mark.parametrize("case", ["nobody_suspected", "all_identical", "all_zero"])
def test_where_nobody_stands_out_it_is_the_plain_mean(one_round, case):
    updates = np.random.default_rng(2).normal(size=(7, 20))
    if case != "nobody_suspected":
        updates[:] = updates[0] * (case == "all_identical")
    f = 0 if case == "nobody_suspected" else 2
    _, result = one_round(prodigy(num_byzantine=f), updates)
    np.testing.assert_allclose(result.update, updates.mean(0), rtol=1e-5, atol=1e-6)


def test_updates_beyond_float32_get_nothing(one_round, survivors):
    updates = np.random.default_rng(3).normal(size=(9, 20)) + 0.5
    updates[4] *= 1e25
    for f in (0, 2):
        judged, result = one_round(prodigy(num_byzantine=f), updates)
        assert 4 not in survivors(judged)
        assert np.abs(result.update).max() < 10


def test_f_from_the_threat_model(one_round, survivors):
    # floor(9 * 10 / 40) = 2 clients are dropped.
    updates = np.random.default_rng(3).normal(size=(9, 20)) + 0.5
    judged, _ = one_round(prodigy(), updates, num_malicious=10)
    assert len(survivors(judged)) == 7


def test_too_few_clients_are_refused(make_spec):
    with pytest.raises(
        InputError, match=r"num_byzantine = 3 must be at most 2 .* of 6"
    ):
        prodigy(num_byzantine=3).init(make_spec(6))
