"""Distances between updates from one Gram matrix."""

import jax
import numpy as np
import pytest

from fedjax_sim.numerics import cosines, distances
from fedjax_sim.numerics import gram as gram_module

gram = jax.jit(gram_module.gram)
squared = jax.jit(distances.squared_distances)
pairwise = jax.jit(distances.pairwise_distances)

# One block of the product, several, and several with a remainder.
SIZES = [3, gram_module._BLOCK, 3 * gram_module._BLOCK, 3 * gram_module._BLOCK + 5]


@pytest.fixture(autouse=True)
def explicit_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def rows(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@pytest.mark.parametrize("d", SIZES)
def test_gram_is_precise_and_symmetric(d):
    x = rows(6, d)
    actual, exact = np.asarray(gram(x)), x.astype(np.float64) @ x.T.astype(np.float64)
    norms = np.sqrt(np.diag(exact))
    assert np.abs((actual - exact) / np.outer(norms, norms)).max() < 4e-7
    np.testing.assert_array_equal(actual, actual.T)


@pytest.mark.parametrize("d", SIZES)
def test_distances_are_those_of_numpy(d):
    x = rows(6, d)
    exact = np.linalg.norm(x[:, None].astype(np.float64) - x[None], axis=-1)
    np.testing.assert_allclose(pairwise(x), exact, rtol=1e-5)
    np.testing.assert_allclose(squared(x), exact**2, rtol=2e-5)
    np.testing.assert_array_equal(squared(x), np.asarray(squared(x)).T)
    assert not np.diag(squared(x)).any()


@pytest.mark.parametrize("n", [2, 5, 26, 100])
@pytest.mark.parametrize("d", [50, 40_001])
@pytest.mark.parametrize("kind", ["gauss", "constant", "heavy"])
def test_identical_updates_are_at_distance_zero(n, d, kind):
    one = rows(1, d)[0]
    if kind == "constant":
        one = np.full(d, 0.3, np.float32)
    elif kind == "heavy":
        one = one**5
    x = np.tile(one, (n, 1))
    x[::3] = rows(len(x[::3]), d, seed=1)
    same = np.arange(n) % 3 > 0
    assert not np.asarray(pairwise(x))[np.ix_(same, same)].any()
    assert np.asarray(pairwise(x))[np.ix_(same, ~same)].all()


def test_close_updates_are_told_apart():
    x = rows(2, 20_000)
    x[1] = x[0] * np.float32(1.01)
    exact = 0.01 * np.linalg.norm(x[0])
    np.testing.assert_allclose(pairwise(x)[0, 1], exact, rtol=0.02)


def test_small_updates_beside_a_huge_one():
    x = rows(4, 500)
    x[3] *= 1e6
    exact = np.linalg.norm(x[0] - x[1])
    np.testing.assert_allclose(pairwise(x)[0, 1], exact, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-34, 1e-30, 1e-20, 1e19, 1e25, 1e30, 1e35])
@pytest.mark.parametrize("d", [50, 3 * gram_module._BLOCK + 5])
def test_distances_whose_squares_leave_float32(scale, d):
    x = rows(6, d)
    x[:3] *= np.float32(scale)
    x[1] = x[0]
    exact = np.linalg.norm(x[:, None].astype(np.float64) - x[None], axis=-1)
    np.testing.assert_allclose(pairwise(x), exact, rtol=1e-5)
    mask = np.arange(6) > 1
    found = distances.pairs(x)
    unit = np.float64(distances.middle_unit(found, mask))
    inside = np.arange(6) > 2
    np.testing.assert_allclose(
        np.asarray(distances.squares_in(found, unit))[np.ix_(inside, inside)],
        ((exact / unit) ** 2)[np.ix_(inside, inside)],
        rtol=2e-5,
    )


def test_squared_distances_beyond_float32_are_infinite():
    x = rows(4, 50)
    x[0] = 1e30
    x[1] = -1e30
    actual = np.asarray(squared(x))
    assert np.isinf(actual[0, 1:]).all()
    assert np.isinf(actual[1, 2:]).all()
    assert np.isfinite(actual[2:, 2:]).all()
    assert not np.diag(actual).any()


def test_units_of_ordinary_rows_are_one():
    x = rows(5, 50) * np.array([[1e-10], [1], [1e10], [1], [0]], np.float32)
    assert (np.asarray(jax.jit(distances.pairs)(x).units) == 1).all()


def test_zero_rows_and_vmap():
    x = np.stack([rows(3, 20_000), np.zeros((3, 20_000), np.float32)])
    actual = jax.vmap(distances.pairwise_distances)(x)
    np.testing.assert_allclose(actual[0], pairwise(x[0]), rtol=1e-5)
    assert not np.asarray(actual[1]).any()


def test_norms_whose_squares_overflow_or_vanish():
    x = rows(5, 300)
    scale = np.array([1, 1e37, 1e-30, 0, 1], np.float32)[:, None]
    norms = np.linalg.norm(x.astype(np.float64) * scale, axis=1)
    np.testing.assert_allclose(distances.row_norms(x * scale), norms, rtol=1e-6)
    units = np.asarray(distances.unit_rows(x * scale))
    expected = x / np.linalg.norm(x, axis=1, keepdims=True) * (scale > 0)
    np.testing.assert_allclose(units, expected, rtol=1e-5, atol=1e-7)


def cosine_reference(x):
    x = x.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return 0.5 * ((x[:, None] - x[None]) ** 2).sum(-1)


@pytest.mark.parametrize("size", [10.0, 1.0, 1e-2, 1e-3])
def test_cosine_distances_of_nearly_parallel_models(size):
    origin, updates = rows(1, 3000)[0], size * rows(6, 3000, seed=1)
    # 1 - cos in float32 would be wrong by 100 % for the smallest updates.
    exact = cosine_reference(origin.astype(np.float64) + updates)
    actual = jax.jit(cosines.cosine_distances)(updates, origin)
    np.testing.assert_allclose(actual, exact, rtol=2e-5)


def test_cosine_distances_from_nothing():
    updates = rows(5, 40)
    updates[1] = 3 * updates[0]
    updates[2] = -updates[0]
    actual = np.array(cosines.cosine_distances(updates, np.zeros(40, np.float32)))
    np.testing.assert_allclose(actual, cosine_reference(updates), rtol=1e-5, atol=1e-6)
    updates[3:] = 0
    actual = np.array(cosines.cosine_distances(updates, np.zeros(40, np.float32)))
    assert actual[3].tolist() == [1, 1, 1, 0, 1]


def test_parallel_models_are_at_cosine_distance_zero():
    origin = rows(1, 3000)[0]
    lengths = np.array([-0.5, 1e-3, 0.1, 3, 50], np.float32)
    updates = np.concatenate([lengths[:, None] * origin, rows(1, 3000, seed=1)])
    actual = np.asarray(jax.jit(cosines.cosine_distances)(updates, origin))
    assert not actual[:5, :5].any()
    assert (actual[5, :5] > 0.1).all()


@pytest.mark.parametrize("n", [5, 26])
def test_identical_models_are_at_cosine_distance_zero(n):
    origin, updates = rows(1, 20_000)[0], 1e-3 * rows(n, 20_000, seed=1)
    updates[1::2] = updates[1]
    same = np.arange(n) % 2 == 1
    actual = np.asarray(jax.jit(cosines.cosine_distances)(updates, origin))
    assert not actual[np.ix_(same, same)].any()
    assert actual[np.ix_(same, ~same)].all()


def test_norms_beyond_float32():
    x = np.sign(rows(3, 400)) * np.float32(3e38)
    norms, units = (np.asarray(y, np.float64) for y in distances.row_lengths(x))
    np.testing.assert_allclose(norms * units, 6e39, rtol=1e-6)
    assert (np.asarray(distances.row_norms(x)) == np.finfo(np.float32).max).all()
    np.testing.assert_allclose(distances.unit_rows(x), np.sign(x) / 20, rtol=1e-6)


@pytest.mark.parametrize("start", [0, 1e-30, 1, 1e37])
@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1, 1e20, 1e36])
def test_cosine_distances_of_any_size(start, scale):
    origin, updates = np.float32(start) * rows(1, 300)[0], rows(6, 300, seed=1)
    updates[::2] *= np.float32(scale)
    exact = cosine_reference(origin.astype(np.float64) + updates)
    actual = np.asarray(jax.jit(cosines.cosine_distances)(updates, origin))
    np.testing.assert_allclose(actual, exact, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
def test_a_row_that_is_known_to_be_zero_changes_no_length(scale):
    drawn = scale * np.random.default_rng(0).normal(size=(4, 30))
    rows = jax.numpy.asarray(drawn, np.float32)
    centre = rows[2]
    known = distances.row_lengths(rows, centre, jax.numpy.arange(4) == 2)
    unknown = distances.row_lengths(rows, centre)
    lengths = (distances.in_float32(found) for found in (known, unknown))
    np.testing.assert_allclose(*lengths, rtol=1e-6)
    assert distances.in_float32(known)[2] == 0
    halves = np.asarray(rows, np.float64) - np.asarray(centre, np.float64)
    expected = np.linalg.norm(halves / 2, axis=1)
    np.testing.assert_allclose(distances.in_float32(known), expected, rtol=1e-5)
