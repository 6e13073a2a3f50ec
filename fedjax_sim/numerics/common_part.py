"""Distances between rows that hardly differ, such as updates with a large common part.

A Gram matrix of the rows themselves loses what is below 7e-4 of their norms. So a row
in the middle of most others is subtracted first. One row, and no mean: a huge outlier
moves a mean, and then drowns the digits of all others.

Letters: `n` rows, `d` columns.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.core.compiled import compiled
from fedjax_sim.numerics.distances import (
    Pairs,
    distances_in,
    middle_unit,
    pairs,
    pairs_of,
)
from fedjax_sim.numerics.gram import (
    RowsOf,
    columns_from,
    halved,
    scaled_gram_of,
)

# Columns that decide which row is the middle one: runs, and columns of each.
_RUNS, _RUN = 64, 1024

# What rounding makes of two equal distances, relative to them.
_NOISE = 2.0**-20


def _middle_row(
    d: int, rows_of: RowsOf, mask: Array, order: Array
) -> tuple[Array, Array]:
    """The row f32 [d] in the middle of most (0 without any), and which it is, bool [n].

    Args:
      d: columns.
      rows_of: makes the rows, which are finite.
      mask: bool [n], rows that count.
      order: i32 [n], which row comes first where two are as central.
    """
    found = pairs(_sample(d, rows_of))
    apart = distances_in(found, middle_unit(found, mask))
    apart = jnp.sort(jnp.where(mask[None, :], apart, jnp.inf), axis=1)
    middle = apart[:, jnp.maximum(mask.sum() - 1, 0) // 2]
    middle = jnp.where(mask, middle, jnp.inf)[order]
    chosen = order[jnp.lexsort((middle, ~mask[order]))[0]]
    # A slice, of which the compiler makes that row only.
    row = lax.dynamic_slice_in_dim(rows_of(lambda x: x), chosen, 1)[0]
    row = lax.optimization_barrier(jnp.where(mask.any(), row, 0.0))
    return row, mask.any() & (jnp.arange(len(mask)) == chosen)


def _sample(d: int, rows_of: RowsOf) -> Array:
    """Some columns of the rows, in runs: far apart they would cost a whole pass."""
    if d <= _RUN * _RUNS:
        return rows_of(lambda x: x)
    starts = jnp.arange(_RUNS) * (d // _RUNS)
    runs = lax.map(lambda start: rows_of(columns_from(start, _RUN)), starts)
    return jnp.swapaxes(runs, 0, 1).reshape(runs.shape[1], -1)


@compiled()
def half_offsets(rows: Array, mask: Array, order: Array) -> Array:
    """Returns half the difference of each row to the middle one, f32 [n, d].

    Args:
      rows: f32 [n, d], finite.
      mask: bool [n], rows that count.
      order: i32 [n], which row comes first where two are as central.
    """
    rows_of: RowsOf = lambda cut: cut(rows)
    middle, _ = _middle_row(rows.shape[1], rows_of, mask, order)
    return halved(rows_of, middle)(lambda x: x)


@compiled()
def close_pairs(rows: Array, mask: Array, order: Array) -> Pairs:
    """Returns the squared distances between the rows, as `pairs` does.

    Rows at distance 0 of one another are at the same distance from any other.
    """
    return close_pairs_of(rows.shape[1], lambda cut: cut(rows), mask, order)


@compiled()
def centred_gram(rows: Array, mask: Array, order: Array) -> tuple[Array, Array]:
    """Returns `scaled_gram` of half the differences to the middle row."""
    return _centred_gram(rows.shape[1], lambda cut: cut(rows), mask, order)


def _centred_gram(
    d: int, rows_of: RowsOf, mask: Array, order: Array
) -> tuple[Array, Array]:
    middle, chosen = _middle_row(d, rows_of, mask, order)
    return scaled_gram_of(d, halved(rows_of, middle), zeros=chosen)


def close_pairs_of(d: int, rows_of: RowsOf, mask: Array, order: Array) -> Pairs:
    """Returns `close_pairs` of rows of d columns that are made of others."""
    found = pairs_of(*_centred_gram(d, rows_of, mask, order))
    squared, units = (_by_first(x, found.squared, order) for x in found)
    return Pairs(squared, 2.0 * units)  # they are those of halves


def _by_first(values: Array, squared: Array, order: Array) -> Array:
    """Gives every row what the first one that equals it has, f32 [n, n]."""
    equal = (squared == 0)[:, order]
    first = order[equal.argmax(axis=1)]
    same = first[:, None] == first[None, :]
    return jnp.where(same, values, values[first][:, first])


@compiled()
def close_distances(rows: Array, mask: Array, order: Array) -> Array:
    """Returns distances f32 [n, n], 0 or positive, in a unit near a usual row.

    Args:
      rows: f32 [n, d], finite.
      mask: bool [n], rows that count; the others' distances mean nothing.
      order: i32 [n], which of equal rows comes first.
    """
    found = close_pairs(rows, mask, order)
    return distances_in(found, middle_unit(found, mask))


@compiled()
def without_noise(values: Array) -> Array:
    """Returns values f32 [..., n] >= 0; those that only rounding parts are equal.

    Each takes the least value that leads to it by steps of the size of rounding errors:
    their order must not be that of noise.
    """
    order = jnp.argsort(values, axis=-1)
    rising = jnp.take_along_axis(values, order, axis=-1)
    before = jnp.concatenate([-jnp.ones_like(rising[..., :1]), rising[..., :-1]], -1)
    step = rising > before * (1.0 + _NOISE)
    start = jnp.where(step, jnp.arange(values.shape[-1]), 0)
    start = lax.cummax(start, axis=values.ndim - 1)
    start = jnp.take_along_axis(rising, start, axis=-1)
    return jnp.take_along_axis(start, jnp.argsort(order, axis=-1), axis=-1)


@compiled()
def close_products(rows: Array, mask: Array, order: Array) -> tuple[Array, Array]:
    """Returns the inner products of `half_offsets`, and the unit of the rows.

    The products f32 [n, n] are in squares of the unit f32 [], that of a usual row; they
    are +-inf where float32 does not hold them.
    """
    products, units = centred_gram(rows, mask, order)
    own = jnp.where(mask, units, jnp.inf)
    unit = jnp.sort(own)[jnp.maximum(mask.sum() - 1, 0) // 2]
    unit = jnp.where(mask.any(), unit, 1.0)
    ratio = units / unit
    found = products * ratio[:, None] * ratio[None, :]
    return jnp.where(products == 0, 0.0, found), unit


# Squared distances below this share of the terms that they are made of have lost more
# digits than a sum of n products loses anyway.
_SHARE = 2.0**-10


def span_distances(
    products: Array, mask: Array, scale: float
) -> Callable[[Array], tuple[Array, Array]]:
    """Returns `(weights f32 [n]) -> (distances f32 [n], exact bool [])`.

    The distances are those of the rows to their sum with these weights, times `scale`.
    They are exact but for rounding, unless a row that counts lies so near to the sum
    that float32 loses the difference, or a product is not finite.

    Args:
      products: f32 [n, n], of the rows, in one unit.
      mask: bool [n], rows that count.
      scale: factor on the distances.
    """
    squares = jnp.diagonal(products)
    finite = jnp.isfinite(jnp.where(mask[:, None] & mask[None], products, 0.0)).all()
    held = jnp.where(mask[:, None] & mask[None], products, 0.0)

    def distances(weights: Array) -> tuple[Array, Array]:
        along = jnp.matmul(held, weights, precision=lax.Precision.HIGHEST)
        length = jnp.maximum(weights @ along, 0.0)
        terms = squares + 2.0 * jnp.abs(along) + length
        squared = jnp.maximum(squares - 2.0 * along + length, 0.0)
        near = mask & (squared < _SHARE * terms) & (terms > 0)
        return scale * jnp.sqrt(squared), finite & ~near.any()

    return distances
