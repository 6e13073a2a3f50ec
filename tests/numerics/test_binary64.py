"""Double precision in pairs of words, against NumPy's, bit for bit."""

import jax
import numpy as np
import pytest

from fedjax_sim.numerics import binary64


def numbers(seed: int, count: int = 20_000) -> np.ndarray:
    """Zeros, small integers, squares of float32, and numbers of any size."""
    rng = np.random.default_rng(seed)
    kinds = [
        np.exp(rng.uniform(-200, 170, count)),
        rng.integers(0, 50, count).astype(float),
        np.float64(np.float32(rng.uniform(0, 2, count))) ** 2,
        1.0 / rng.integers(1, 300, count),
    ]
    return np.choose(rng.integers(0, len(kinds), count), kinds)


def bits(value: binary64.Double) -> np.ndarray:
    high, low = (np.asarray(word).astype(np.uint64) for word in value)
    return (high << np.uint64(32)) | low


def neighbours(values: np.ndarray) -> np.ndarray:
    """Numbers whose sums and differences with `values` cancel or carry."""
    # What follows zero is not normal.
    kept = (np.arange(len(values)) % 2 == 1) | (values == 0)
    near = np.where(kept, values, np.nextafter(values, np.inf))
    return np.where(np.arange(len(values)) % 3, near, values[::-1])


# On a CPU an operation is the processor's own, elsewhere it is emulated.
FORMS = {"native": lambda f: f, "emulated": lambda f: f.__wrapped__}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["multiply", "add", "subtract"])
def test_arithmetic_is_that_of_the_host(name, form):
    x = numbers(0)
    y = neighbours(x)
    x, y = np.maximum(x, y), np.minimum(x, y)
    expected = getattr(np, name)(x, y).view(np.uint64)
    function = jax.jit(FORMS[form](getattr(binary64, name)))
    given = function(binary64.of_host(x), binary64.of_host(y))
    np.testing.assert_array_equal(bits(given), expected)


@pytest.mark.parametrize("form", FORMS)
def test_roots_are_those_of_the_host(form):
    x = numbers(1)
    given = jax.jit(FORMS[form](binary64.square_root))(binary64.of_host(x))
    np.testing.assert_array_equal(bits(given), np.sqrt(x).view(np.uint64))


def test_every_size_of_float32_is_kept():
    x = np.random.default_rng(2).integers(0, 0x7F800000, 20_000).astype(np.uint32)
    x[:200] = np.arange(200)  # below 2^-126
    x = np.append(x.view(np.float32), np.finfo(np.float32).max)
    expected = x.astype(np.float64).view(np.uint64)
    given = jax.jit(binary64.of_float32)(x)
    np.testing.assert_array_equal(bits(given), expected)


def test_order_is_that_of_the_numbers():
    x = numbers(3)
    y = neighbours(x)
    given = binary64.less(binary64.of_host(x), binary64.of_host(y))
    np.testing.assert_array_equal(given, x < y)
