"""Reductions over the clients, a block of parameters at a time.

XLA's own sum over the rows of f32 [50, 1.2e6] takes 340 ms on two CPU cores; a product
with a vector of ones reads the same memory in 8 ms. What needs more than one look at
the values (a mask, a mean that is subtracted) takes them while they are in the cache.

Letters: `n` rows (clients), `k` columns (coordinates).
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

# Columns in one block: [50, 16384] floats fill a CPU's cache of a few MiB.
BLOCK = 16384


def reduce_columns(
    reduce: Callable[[Array], Array], rows: Array, width: int = BLOCK
) -> Array:
    """Returns `reduce(rows)`, on a CPU from blocks of columns.

    Args:
      reduce: takes f32 [n, any number of columns]; returns a value for each column.
      rows: f32 [n, k].
      width: columns in a block.

    Returns:
      f32 [k].
    """

    def in_blocks(rows: Array) -> Array:
        n, k = rows.shape
        size = min(width, k)

        def block(i: Array, out: Array) -> Array:
            # The last block overlaps its neighbour instead of being padded.
            at = jnp.minimum(i * size, k - size)
            part = reduce(lax.dynamic_slice(rows, (0, at), (n, size)))
            return lax.dynamic_update_slice(out, part, (at,))

        blocks = -(-k // size) if k else 0
        return lax.fori_loop(0, blocks, block, jnp.zeros(k, rows.dtype))

    return lax.platform_dependent(rows, cpu=in_blocks, default=reduce)


def map_columns(
    change: Callable[[Array], Array], rows: Array, width: int = BLOCK
) -> Array:
    """Returns `change(rows)`, on a CPU from blocks of columns and in their place.

    Args:
      change: takes f32 [n, any number of columns] and returns the same shape; what
        becomes of a column depends on that column alone.
      rows: f32 [n, k].
      width: columns in a block.
    """

    def in_blocks(rows: Array) -> Array:
        n, k = rows.shape
        size = min(width, k)
        whole = k // size if k else 0

        def block(i: Array, rows: Array) -> Array:
            at = (0, i * size)
            part = change(lax.dynamic_slice(rows, at, (n, size)))
            return lax.dynamic_update_slice(rows, part, at)

        rows = lax.fori_loop(0, whole, block, rows)
        if k > whole * size:
            rows = rows.at[:, whole * size :].set(change(rows[:, whole * size :]))
        return rows

    return lax.platform_dependent(rows, cpu=in_blocks, default=change)


def masked_mean(rows: Array, mask: Array) -> Array:
    """Returns the mean f32 [k] of the rows of `mask` (bool [n]); 0 without any.

    Rows outside the mask may hold anything.
    """
    return reduce_columns(lambda block: _mean(block, mask), rows)


def masked_std(rows: Array, mask: Array, ddof: int) -> Array:
    """Returns the standard deviation f32 [k] of the rows of `mask` (bool [n]).

    It is 0 of at most `ddof` rows. Two passes: in one, E[x^2] - E[x]^2 may turn
    negative in float32.
    """
    count = jnp.maximum(mask.sum() - ddof, 1)

    def std(block: Array) -> Array:
        centered = block - _mean(block, mask)[None]
        return jnp.sqrt(_sum(jnp.square(centered), mask) / count)

    return reduce_columns(std, rows)


def _mean(rows: Array, mask: Array) -> Array:
    return _sum(rows, mask) / jnp.maximum(mask.sum(), 1)


def _sum(rows: Array, mask: Array) -> Array:
    ones = jnp.ones(len(mask), rows.dtype)
    masked = jnp.where(mask[:, None], rows, 0.0)
    return jnp.matmul(ones, masked, precision=lax.Precision.HIGHEST)
