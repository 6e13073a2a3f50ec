"""Order statistics per coordinate, against sorting in NumPy."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedjax_sim.numerics import order_statistics
from fedjax_sim.numerics.order_statistics import (
    kth_smallest,
    mean_of_ranks,
    median,
    trimmed_mean,
)


@pytest.fixture(autouse=True)
def explicit_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def own_functions():
    """Returns jitted functions that share no compilation with others."""
    return SimpleNamespace(
        median=jax.jit(lambda *x: median(*x)),
        lower=jax.jit(lambda *x: median(*x, even="lower")),
        kth=jax.jit(lambda *x: kth_smallest(*x)),
        trimmed=jax.jit(lambda *x: trimmed_mean(*x)),
    )


FORMS = {"network": (10**6, own_functions()), "bisection": (0, own_functions())}


@pytest.fixture(params=FORMS)
def ops(request):
    """Returns both forms of the primitive, whatever the number of rows."""
    limit, functions = FORMS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_statistics, "_NETWORK_ROWS", limit)
        yield functions


def random_case(n, k, included, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, k)).astype(np.float32)
    mask = np.zeros(n, bool)
    mask[rng.permutation(n)[:included]] = True
    return rows, mask


@pytest.mark.parametrize(
    ("n", "included"), [(1, 1), (2, 2), (5, 4), (7, 7), (25, 24), (25, 1), (33, 20)]
)
def test_values_are_those_of_sorting(ops, n, included):
    rows, mask = random_case(n, 700, included)
    rows[:, :300] = rows[:, :300].round()  # ties
    ordered = np.sort(rows[mask], axis=0)
    low, high = (included - 1) // 2, included // 2
    np.testing.assert_array_equal(ops.lower(rows, mask), ordered[low])
    midpoint = np.float32(0.5) * (ordered[low] + ordered[high])
    np.testing.assert_array_equal(ops.median(rows, mask), midpoint)
    for rank in {0, included // 3, included - 1}:
        np.testing.assert_array_equal(ops.kth(rows, mask, rank), ordered[rank])
    for trim in {0, (included - 1) // 2}:
        expected = ordered[trim : included - trim].mean(0, dtype=np.float64)
        actual = ops.trimmed(rows, mask, trim)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [112, 113, 200])
def test_median_of_more_rows_than_a_network_sorts(n):
    rows, mask = random_case(n, 300, n - 1)
    ordered = np.sort(rows[mask], axis=0)
    low = ordered[(n - 2) // 2]
    np.testing.assert_array_equal(
        jax.jit(partial(median, even="lower"))(rows, mask), low
    )


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_finite_or_infinite_floats(ops, data):
    # Subnormals are left out because XLA on a CPU flushes them to zero.
    floats = st.floats(width=32, allow_nan=False, allow_subnormal=False)
    rows = data.draw(hnp.arrays(np.float32, (6, 3), elements=floats))
    mask = data.draw(hnp.arrays(bool, 6).filter(np.any))
    rank = data.draw(st.integers(0, int(mask.sum()) - 1))
    expected = np.sort(rows[mask], axis=0)[rank]
    np.testing.assert_array_equal(ops.kth(rows, mask, rank), expected)


def test_nan_spreads_only_from_included_rows(ops):
    rows = np.array([[1, 1, 1], [2, np.nan, 2], [3, 3, 3], [4, 4, np.nan]], np.float32)
    mask = np.array([True, True, True, False])
    for actual in (
        ops.median(rows, mask),
        ops.lower(-rows, mask),
        ops.kth(rows, mask, 0),
        ops.kth(rows, mask, 2),
        ops.trimmed(rows, mask, 1),
    ):
        np.testing.assert_array_equal(np.isnan(actual), [False, True, False])


@pytest.mark.parametrize("sign", [1, -1])
def test_nan_of_either_sign(ops, sign):
    rows = np.zeros((5, 2), np.float32)
    rows[3, 0] = np.copysign(np.nan, sign)
    np.testing.assert_array_equal(ops.median(rows, np.ones(5, bool)), [np.nan, 0])


def test_infinities_are_ordered(ops):
    inf = np.inf
    rows = np.array([[inf, -inf, inf], [-inf, -inf, 0], [1, 2, inf]], np.float32)
    every = np.ones(3, bool)
    np.testing.assert_array_equal(ops.median(rows, every), [1, -inf, inf])
    np.testing.assert_array_equal(ops.trimmed(rows, every, 1), [1, -inf, inf])


def test_nothing_included_gives_nan(ops):
    rows, none = np.ones((4, 2), np.float32), np.zeros(4, bool)
    for actual in (ops.median(rows, none), ops.trimmed(rows, none, 1)):
        assert np.isnan(actual).all()


def test_huge_extremes_cost_no_precision(ops):
    rows, mask = random_case(9, 50, 9)
    rows[4] *= 1e30
    expected = np.sort(rows, axis=0)[1:-1].mean(0, dtype=np.float64)
    np.testing.assert_allclose(ops.trimmed(rows, mask, 1), expected, rtol=1e-5)


def test_huge_middle_values_do_not_overflow(ops):
    rows = np.array([[0.0], [3e38], [3e38], [3.2e38]], np.float32)
    actual = ops.median(rows, np.ones(4, bool))
    np.testing.assert_allclose(actual, [3e38], rtol=1e-6)


def test_trim_is_clipped_to_leave_a_value(ops):
    rows, mask = random_case(6, 5, 4)
    np.testing.assert_array_equal(ops.trimmed(rows, mask, 100), ops.median(rows, mask))


def test_no_columns_give_an_empty_median(ops):
    assert ops.median(np.zeros((3, 0), np.float32), np.ones(3, bool)).shape == (0,)


def test_vmap_scan_and_traced_ranks(ops):
    cases = [random_case(7, 600, m, seed=m) for m in (3, 5, 7)]
    rows, masks = map(np.stack, zip(*cases, strict=True))
    expected = [np.sort(r[m], axis=0)[1] for r, m in cases]
    ranks = np.array([1, 1, 1])
    np.testing.assert_array_equal(jax.vmap(kth_smallest)(rows, masks, ranks), expected)
    _, scanned = jax.lax.scan(
        lambda c, x: (c, kth_smallest(*x)), 0, (rows, masks, ranks)
    )
    np.testing.assert_array_equal(scanned, expected)


def test_mean_of_ranks_by_hand():
    rows = np.array([[4.0], [1.0], [3.0], [2.0], [10.0]], np.float32)
    mask = np.ones(5, bool)
    assert mean_of_ranks(rows, mask, 1, 4).tolist() == [3.0]
    assert mean_of_ranks(rows, mask, 0, 5).tolist() == [4.0]


def test_agrees_with_numpy_median():
    rows, mask = random_case(10, 40, 10)
    np.testing.assert_array_equal(median(rows, mask), np.median(rows, axis=0))


@pytest.mark.parametrize(
    ("n", "count"), [(9, 1), (9, 4), (9, 7), (16, 5), (33, 12), (65, 20)]
)
def test_mean_around_the_median_against_numpy(n, count):
    rng = np.random.default_rng(count)
    values = rng.normal(size=(n, 30)).astype(np.float32)
    mask = np.arange(n) % 4 != 2
    actual = jax.jit(order_statistics.mean_around_median)(values, mask, count)
    kept = values[mask].astype(np.float64)
    gaps = np.abs(kept - np.median(kept, axis=0))
    nearest = np.argsort(gaps, axis=0)[:count]
    expected = np.take_along_axis(kept, nearest, axis=0).mean(0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_values_that_tie_around_the_median_share_the_last_place():
    values = jnp.array([[0.0], [2.0], [4.0], [100.0], [2.0]])
    every = jnp.ones(5, bool)
    means = [order_statistics.mean_around_median(values, every, c)[0] for c in (2, 3)]
    # 2 and 2 lie at the median; 0 and 4 share the third place.
    np.testing.assert_allclose(means, [2, 2])
    values = values.at[0].set(-2.0).at[1].set(0.0)
    # Median 2: then 0 and 4 at the same distance, then -2.
    mean = order_statistics.mean_around_median(values, every, 2)[0]
    np.testing.assert_allclose(mean, 2)


def test_a_nan_around_the_median_is_seen():
    values = jnp.array([[1.0, 1.0], [jnp.nan, 2.0], [3.0, 3.0]])
    mean = order_statistics.mean_around_median(values, jnp.ones(3, bool), 2)
    assert np.isnan(mean).tolist() == [True, False]


@pytest.mark.parametrize("q", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("m", [1, 2, 5, 8])
def test_quantiles_are_those_of_numpy(q, m):
    values = np.random.default_rng(m).normal(size=10).astype(np.float32)
    mask = np.arange(10) < m
    actual = jax.jit(order_statistics.quantile, static_argnums=2)(values, mask, q)
    np.testing.assert_allclose(actual, np.quantile(values[:m], q), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [20, 500])
def test_largest_marks_the_top_values_and_the_first_of_ties(size):
    values = np.random.default_rng(size).normal(size=size).astype(np.float32)
    mask = jax.jit(order_statistics.largest)(values, 7)
    assert set(np.flatnonzero(mask)) == set(np.argsort(values)[-7:])
    ties = jnp.array([1.0, 3.0, 2.0, 2.0, 0.0, 2.0])
    kept = order_statistics.largest(ties, 3)
    assert kept.tolist() == [False, True, True, True, False, False]
