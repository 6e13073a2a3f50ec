"""Norms of updates, and distances between all pairs of them from one Gram matrix.

Letters: `n` clients, `d` parameters. Nothing of shape [n, n, d] is ever formed, and
nothing is centred: one huge outlier would drown the small updates.
An entry depends on its two rows only, so the rows of excluded clients may hold
anything; their entries then mean nothing.
"""

import jax.numpy as jnp
from jax import Array, lax

# Parameters per product. One product over all of d is two to three times slower on a
# CPU and, as it adds up d terms in one go, ten times less precise.
_BLOCK = 16384

# Squared distances up to this share of |a|^2 + |b|^2 count as rounding errors of
# float32: storing the three terms of |a|^2 + |b|^2 - 2ab alone costs up to 2^-23 of
# it. The factor 2 is left for the order of the additions, which made no difference
# between identical rows in any case that was measured on a CPU.
_NOISE_FLOOR = 2.0**-22

# Bound on the length of the rounding error in a sum of vectors, relative to theirs.
_ERROR = 2.0**-21


def gram(updates: Array) -> Array:
    """Returns all inner products f32 [n, n], exactly symmetric.

    Args:
      updates: f32 [n, d].
    """
    d = updates.shape[1]

    def product(block: Array) -> Array:
        # With the parameters in rows XLA's CPU product takes half to two thirds of the
        # time (d = 1.2e6: 22 instead of 40 ms for 25 clients, 78 for 121 for 50); left
        # to itself the compiler folds the transposition away.
        columns = lax.optimization_barrier(block.T)
        return jnp.matmul(columns.T, columns, precision=lax.Precision.HIGHEST)

    def block_product(i: Array) -> Array:
        return product(lax.dynamic_slice_in_dim(updates, i * _BLOCK, _BLOCK, axis=1))

    total = product(updates[:, d - d % _BLOCK :])
    if d >= _BLOCK:
        total += lax.map(block_product, jnp.arange(d // _BLOCK)).sum(0)
    return 0.5 * (total + total.T)


def squared_distances(updates: Array) -> Array:
    """Returns squared Euclidean distances f32 [n, n].

    The result is exactly symmetric and exactly 0 on the diagonal and between
    identical updates; distances below about 7e-4 of the norms, which float32 cannot
    tell from 0, are 0 too. A distance beyond the range of float32, or to a
    row with a NaN or Inf, is +inf.

    Args:
      updates: f32 [n, d].
    """
    products = gram(updates)
    squares = jnp.diagonal(products)
    scale = squares[:, None] + squares[None, :]
    squared = scale - 2.0 * products
    overflow = ~jnp.isfinite(squared)
    squared = jnp.where(squared <= _NOISE_FLOOR * scale, 0.0, squared)
    squared = jnp.where(overflow, jnp.inf, squared)
    return jnp.where(jnp.eye(len(squared), dtype=bool), 0.0, squared)


def pairwise_distances(updates: Array) -> Array:
    """Returns Euclidean distances f32 [n, n]; see `squared_distances`."""
    return jnp.sqrt(squared_distances(updates))


def row_norms(updates: Array) -> Array:
    """Returns the Euclidean norms f32 [n]; their squares may exceed float32.

    Args:
      updates: f32 [n, d].
    """
    scale = jnp.abs(updates).max(axis=1, initial=0.0)
    rows = updates / jnp.where(scale > 0, scale, 1.0)[:, None]
    return scale * jnp.linalg.norm(rows, axis=1)


def unit_rows(updates: Array) -> Array:
    """Returns the rows f32 [n, d] at length 1; zeros stay zeros."""
    norms = row_norms(updates)
    return updates / jnp.where(norms > 0, norms, 1.0)[:, None]


def cosine_distances(updates: Array, origin: Array) -> Array:
    """Returns 1 - cos f32 [n, n] between the rows of `origin + updates`.

    It is half the squared distance of the unit vectors, which are taken as differences
    from the direction of `origin`: models that hardly moved are nearly parallel, and
    the rounding error of 1 - cos itself would exceed their distances (about 5e-5).
    Exactly 0 between identical and parallel rows; a row of zeros is at distance 1 from
    all others.

    Args:
      updates: f32 [n, d].
      origin: f32 [d], the point that the updates start from; zeros for none.
    """
    ends = row_norms(origin[None] + updates)
    start = row_norms(origin[None])[0]
    lengths = row_norms(updates)
    units = updates / jnp.where(lengths > 0, lengths, 1.0)[:, None]
    along = jnp.matmul(units, origin, precision=lax.Precision.HIGHEST)
    # 1/|w| - 1/|g|, where |w|^2 - |g|^2 = |u| (2 g.u/|u| + |u|).
    shift = -lengths / (ends + start) * (2.0 * along + lengths) / (ends * start)
    shift = jnp.where(start > 0, shift, 0.0)
    zero = ends == 0
    scale = 1.0 / jnp.where(zero, 1.0, ends)
    directions = scale[:, None] * updates + shift[:, None] * origin[None]
    distances = 0.5 * squared_distances(directions)
    # What is left of a sum of two opposite vectors is the rounding error of both.
    error = _ERROR * (scale * lengths + jnp.abs(shift) * start)
    within = distances <= 0.5 * (error[:, None] + error[None, :]) ** 2
    distances = jnp.where(within, 0.0, distances)
    off_diagonal = ~jnp.eye(len(zero), dtype=bool)
    return jnp.where((zero[:, None] | zero[None, :]) & off_diagonal, 1.0, distances)
