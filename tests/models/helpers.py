"""What the tests of several kinds of layers share."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

# size, stride, padding, height, width, channels; 3x3x8 has 72 fields, the others less.
CONVOLUTIONS = [
    (1, 1, 0, 5, 5, 3),
    (1, 2, 0, 6, 5, 4),
    (3, 1, 1, 6, 6, 2),
    (3, 2, 1, 7, 6, 8),
    (3, 1, 0, 5, 8, 8),
    (3, 1, 3, 5, 5, 1),
    (4, 2, 1, 8, 8, 5),
    (5, 1, 2, 7, 7, 3),
    (5, 3, 0, 9, 11, 3),
]

# Tests compile more than they compute: leave out the compiler's slow passes.
quick_jit = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def normal(seed, *shape):
    """Fixed draws; NumPy needs no compilation for every shape."""
    draws = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(draws, jnp.float32)


def close(actual, expected, tolerance=1e-5):
    expected = np.asarray(expected)
    scale = max(float(np.abs(expected).max(initial=0)), 1.0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def trees_close(actual, expected, tolerance=1e-5):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: close(a, b, tolerance), actual, expected)


def lax_conv(x, kernel, stride, padding):
    """JAX's own convolution, [B, H, W, C] by [k, k, C, O]."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
