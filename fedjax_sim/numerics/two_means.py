"""The best two clusters of the values of each coordinate, exactly.

On a line they are the lower and the upper values, so all n - 1 cuts are looked at.
Letters: `n` rows (clients), `k` columns (coordinates).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from fedjax_sim.core.compiled import compiled
from fedjax_sim.numerics.gram import row_units


class TwoMeans(NamedTuple):
    """The clusters of each column."""

    lower: Array  # bool [n, k], members of the lower cluster
    gap: Array  # f32 [k], between the two means; 0 where all values are equal


@compiled()
def two_means(rows: Array, mask: Array) -> TwoMeans:
    """Returns the two clusters of least squares of the included values.

    Args:
      rows: f32 [n, k], finite.
      mask: bool [n], values that count; the others are in no cluster.
    """
    n, m = len(mask), mask.sum()
    # In units of the largest value; around the middle one, which keeps the digits.
    unit = row_units(jnp.where(mask[:, None], rows, 0.0).T)[None, :]
    values = jnp.sort(jnp.where(mask[:, None], rows / unit, jnp.inf), axis=0)
    centre = values[jnp.maximum(m - 1, 0) // 2][None]
    counted = (jnp.arange(n) < m)[:, None]
    offsets = jnp.where(counted, values - centre, 0.0)
    below = jnp.cumsum(offsets, axis=0)
    sizes = jnp.arange(1, n + 1)[:, None]
    rest = jnp.maximum(m - sizes, 1)
    gaps = (below[-1:] - below) / rest - below / sizes
    # What lies between the clusters is the largest where they themselves are tight.
    between = (sizes * rest) * jnp.square(gaps)
    # Equal values are never separated.
    following = jnp.concatenate([values[1:], values[-1:]])
    distinct = (following > values) & (sizes < m)
    cut = jnp.where(distinct, between, -1.0).argmax(0)
    last = jnp.take_along_axis(values, cut[None], axis=0)
    gap = jnp.take_along_axis(gaps, cut[None], axis=0)[0]
    split = distinct.any(0)
    lower = mask[:, None] & (rows / unit <= last)
    return TwoMeans(lower, jnp.where(split, gap, 0.0) * unit[0])
