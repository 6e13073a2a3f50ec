"""Norms of updates, and distances between all pairs of them from one Gram matrix.

Letters: `n` clients, `d` parameters. Nothing of shape [n, n, d] is ever formed, and
nothing is centred: one huge outlier would drown the small updates. (Rows with a large
common part: `common_part`.)
An entry depends on its two rows only, so the rows of excluded clients may hold
anything; their entries then mean nothing.

The squares of numbers above 1.8e19 or below 1e-19 leave float32, and so does the norm
of many numbers near 3e38. What is made of squares therefore comes in units: powers of
two near the largest entry of a row, by which float32 multiplies and divides exactly
(`Lengths`, `Pairs`).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fedjax_sim.core.compiled import compiled
from fedjax_sim.numerics import order_statistics
from fedjax_sim.numerics.gram import ORDINARY, row_squares, row_units, scaled_gram

# Squared distances up to this share of |a|^2 + |b|^2 count as rounding errors of
# float32: storing the three terms of |a|^2 + |b|^2 - 2ab alone costs up to 2^-23 of
# it. The factor 2 is left for the order of the additions, which made no difference
# between identical rows in any case that was measured on a CPU.
_NOISE_FLOOR = 2.0**-22

LARGEST = float(np.finfo(np.float32).max)


class Lengths(NamedTuple):
    """Euclidean norms of rows: `norms` times `units`, which float32 may not hold."""

    norms: Array  # f32 [n]
    units: Array  # f32 [n], powers of two


class Pairs(NamedTuple):
    """Squared distances between rows: `squared` times the squares of `units`."""

    squared: Array  # f32 [n, n]
    units: Array  # f32 [n, n], powers of two


@compiled()
def pairs(updates: Array) -> Pairs:
    """Returns the squared distances between all rows, in units of the longer one.

    The result is exactly symmetric and exactly 0 on the diagonal and between
    identical updates; distances below about 7e-4 of the norms, which float32 cannot
    tell from 0, are 0 too. The distance to a row with a NaN or Inf is +inf.

    Args:
      updates: f32 [n, d].
    """
    return pairs_of(*scaled_gram(updates))


@compiled()
def pairs_of(products: Array, units: Array) -> Pairs:
    """Returns `pairs` of the rows whose products `scaled_gram` gave."""
    squares = jnp.diagonal(products)
    longer = jnp.maximum(units[:, None], units[None, :])
    one, other = units[:, None] / longer, units[None, :] / longer
    scale = one * one * squares[:, None] + other * other * squares[None, :]
    squared = scale - 2.0 * (one * other * products)
    overflow = ~jnp.isfinite(squared)
    squared = jnp.where(squared <= _NOISE_FLOOR * scale, 0.0, squared)
    squared = jnp.where(overflow, jnp.inf, squared)
    squared = jnp.where(jnp.eye(len(squared), dtype=bool), 0.0, squared)
    return Pairs(squared, longer)


@compiled()
def squares_in(found: Pairs, unit: Array | float) -> Array:
    """Returns the squared distances f32 [n, n] in squares of `unit` (f32 [])."""
    ratio = found.units / unit
    return jnp.where(found.squared > 0, found.squared * ratio * ratio, 0.0)


@compiled()
def distances_in(found: Pairs, unit: Array | float) -> Array:
    """Returns the distances f32 [n, n] in units of `unit` (f32 [])."""
    ratio = found.units / unit
    return jnp.where(found.squared > 0, jnp.sqrt(found.squared) * ratio, 0.0)


@compiled()
def middle_unit(found: Pairs, mask: Array) -> Array:
    """Returns the lower median f32 [] of the rows' units; 1 if there are none.

    In squares of it the distances within a majority of rows neither over- nor
    underflow; those to the others may be +inf.

    Args:
      found: of n rows.
      mask: bool [n], rows that count.
    """
    own = jnp.diagonal(found.units)[:, None]
    unit = order_statistics.median(own, mask, "lower")[0]
    return jnp.where(mask.any(), unit, 1.0)


@compiled()
def squared_distances(updates: Array) -> Array:
    """Returns squared Euclidean distances f32 [n, n]; see `pairs`.

    What exceeds float32 is +inf, and what it cannot tell from 0 is 0.

    Args:
      updates: f32 [n, d].
    """
    return squares_in(pairs(updates), 1.0)


@compiled()
def pairwise_distances(updates: Array) -> Array:
    """Returns Euclidean distances f32 [n, n]; see `pairs`.

    +inf where float32 does not hold the distance itself; its square may exceed it.
    """
    return distances_in(pairs(updates), 1.0)


@compiled()
def row_lengths(
    updates: Array, centre: Array | None = None, zeros: Array | None = None
) -> Lengths:
    """Returns the Euclidean norms of rows, of any finite numbers.

    The units are 1 where all rows are of ordinary length.

    Args:
      updates: f32 [n, d].
      centre: f32 [d]: instead of the rows, half their differences to it.
      zeros: bool [n], rows that are known to be 0. (Any other square of 0 may be that
        of small numbers, for which all rows are looked at once more.)
    """
    squares = row_squares(updates, centre)
    low, high = ORDINARY
    ordinary = (low <= squares) & (squares <= high)
    if zeros is not None:
        ordinary |= zeros

    def in_units() -> Lengths:
        rows = updates if centre is None else 0.5 * updates - 0.5 * centre[None]
        units = row_units(rows)
        return Lengths(jnp.linalg.norm((1.0 / units)[:, None] * rows, axis=1), units)

    return lax.cond(
        ordinary.all(),
        lambda: Lengths(jnp.sqrt(squares), jnp.ones_like(squares)),
        in_units,
    )


@compiled()
def in_float32(lengths: Lengths) -> Array:
    """Returns the norms f32 [n]; those beyond float32 are its largest number."""
    norms = jnp.minimum(lengths.norms * lengths.units, LARGEST)
    return jnp.where(jnp.isfinite(lengths.norms), norms, lengths.norms)


@compiled()
def finite(values: Array) -> Array:
    """Returns values of any shape within float32, where rounding or a sum left it.

    The mean of finite numbers is finite, but its last rounding may be upwards.
    """
    return jnp.clip(values, -LARGEST, LARGEST)


@compiled()
def row_norms(updates: Array) -> Array:
    """Returns the Euclidean norms f32 [n], at most the largest number of float32.

    Args:
      updates: f32 [n, d].
    """
    return in_float32(row_lengths(updates))


@compiled()
def unit_rows(updates: Array, lengths: Lengths | None = None) -> Array:
    """Returns the rows f32 [n, d] at length 1; zeros stay zeros.

    Args:
      updates: f32 [n, d].
      lengths: of the rows, where they are known.
    """
    norms, units = lengths or row_lengths(updates)
    # Unlike the rows in `row_lengths`, which the compiler would keep for this.
    low, high = ORDINARY
    near = (low <= units) & (units <= high / 2.0**64)
    first = jnp.where(near, 1.0, 1.0 / units)
    second = jnp.where(near, 1.0 / units, 1.0) / jnp.where(norms > 0, norms, 1.0)
    return second[:, None] * (first[:, None] * updates)
