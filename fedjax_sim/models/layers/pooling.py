"""Pooling, and its opposite."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fedjax_sim.models.layers import taps


def max_pool(
    x: Array, size: int, stride: int, padding: int = 0, native: bool = False
) -> Array:
    """Max pooling, [B, H, W, C] -> [B, H', W', C]; ties go to the first element.

    Args:
      x: f32 [B, H, W, C].
      size, stride, padding: of the square window.
      native: by XLA's own operations. A TPU lays the last two axes of an array out in
        tiles of 8 x 128, in which the views of a window are nearly empty: its compiler
        estimates a fifth of the cycles for the two-layer CNN.
    """
    if native:
        pad = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        window, strides = (1, size, size, 1), (1, stride, stride, 1)
        lowest = np.array(-np.inf, x.dtype)  # by which JAX knows a maximum
        return lax.reduce_window(x, lowest, lax.max, window, strides, pad)
    return _max_pool(x, size, stride, padding)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x, size, stride, padding):
    return _max_pool_forward(x, size, stride, padding)[0]


def _windows(x, size, stride, padding):
    """The size*size shifted views of x that a window covers, each [B, H', W', C]."""
    batch, height, width, channels = x.shape
    rows, cols = (taps.num_outputs(n, size, stride, padding) for n in (height, width))
    if size == stride and not padding:
        # No overlap: a reshape is cheaper than strided slices.
        x = x[:, : rows * size, : cols * size]
        x = x.reshape(batch, rows, size, cols, size, channels)
        return [x[:, :, i, :, j] for i in range(size) for j in range(size)]
    low = jnp.finfo(x.dtype).min
    pad = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    x = jnp.pad(x, pad, constant_values=low)
    return [
        x[:, i : i + stride * (rows - 1) + 1 : stride][
            :, :, j : j + stride * (cols - 1) + 1 : stride
        ]
        for i in range(size)
        for j in range(size)
    ]


def maximum(candidates):
    """Elementwise maximum and the int8 index of the first candidate that reaches it."""
    best = candidates[0]
    for candidate in candidates[1:]:
        best = jnp.maximum(best, candidate)
    winner = jnp.full(best.shape, len(candidates) - 1, jnp.int8)
    for i in reversed(range(len(candidates) - 1)):
        winner = jnp.where(candidates[i] == best, jnp.int8(i), winner)
    return best, winner


def shares(winner, grad, count):
    """What each of `count` candidates of a maximum gets of its gradient."""
    return [jnp.where(winner == jnp.int8(i), grad, 0.0) for i in range(count)]


def _max_pool_forward(x, size, stride, padding):
    best, winner = maximum(_windows(x, size, stride, padding))
    # Keeping one byte per output instead of the input halves the backward traffic.
    return best, (winner, jnp.zeros((0, *x.shape[1:3]), jnp.int8))


def _max_pool_backward(size, stride, padding, saved, grad):
    winner, like = saved
    batch, rows, cols, channels = grad.shape
    height, width = like.shape[1:3]
    if size == stride and not padding:
        taps = jnp.arange(size * size, dtype=jnp.int8)
        taps = taps.reshape(1, 1, size, 1, size, 1)
        x_grad = jnp.where(
            winner[:, :, None, :, None] == taps, grad[:, :, None, :, None], 0.0
        ).reshape(batch, rows * size, cols * size, channels)
        crop = ((0, 0), (0, height - rows * size), (0, width - cols * size), (0, 0))
        return (jnp.pad(x_grad, crop),)

    # The transpose of a strided slice: spread the gradient, put it back in place.
    padded_height, padded_width = height + 2 * padding, width + 2 * padding
    total: Array | float = 0.0
    for tap, share in enumerate(shares(winner, grad, size * size)):
        i, j = divmod(tap, size)
        spread = (
            (0, 0, 0),
            (i, padded_height - i - stride * (rows - 1) - 1, stride - 1),
            (j, padded_width - j - stride * (cols - 1) - 1, stride - 1),
            (0, 0, 0),
        )
        total = total + lax.pad(share, jnp.zeros((), grad.dtype), spread)
    x_grad = jnp.asarray(total)
    return (x_grad[:, padding : padding + height, padding : padding + width],)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def avg_pool(x: Array, size: int, native: bool = False) -> Array:
    """Average pooling with stride `size`, [B, H, W, C] -> [B, H//size, W//size, C].

    Args:
      x: f32 [B, H, W, C].
      size: of the square window.
      native: see `max_pool`.
    """
    if native:
        window = (1, size, size, 1)
        zero = np.zeros((), x.dtype)
        return lax.reduce_window(x, zero, lax.add, window, window, "VALID") / size**2
    batch, height, width, channels = x.shape
    rows, cols = height // size, width // size
    x = x[:, : rows * size, : cols * size]
    return x.reshape(batch, rows, size, cols, size, channels).mean((2, 4))


def upsample(x: Array, factor: int) -> Array:
    """Nearest-neighbour upsampling of [B, H, W, C] by an integer factor."""
    return x.repeat(factor, axis=1).repeat(factor, axis=2)
