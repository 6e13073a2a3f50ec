"""Norms of updates, and distances between all pairs of them from one Gram matrix.

Letters: `n` clients, `d` parameters. Nothing of shape [n, n, d] is ever formed, and
nothing is centred: one huge outlier would drown the small updates.
An entry depends on its two rows only, so the rows of excluded clients may hold
anything; their entries then mean nothing.

The squares of numbers above 1.8e19 or below 1e-19 leave float32, and so does the norm
of many numbers near 3e38. What is made of squares therefore comes in units: powers of
two near the largest entry of a row, by which float32 multiplies and divides exactly
(`Lengths`, `Pairs`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fedjax_sim.core.compiled import compiled
from fedjax_sim.numerics import order_statistics

# Parameters per product. One product over all of d is two to three times slower on a
# CPU and, as it adds up d terms in one go, ten times less precise.
_BLOCK = 16384

# Squared distances up to this share of |a|^2 + |b|^2 count as rounding errors of
# float32: storing the three terms of |a|^2 + |b|^2 - 2ab alone costs up to 2^-23 of
# it. The factor 2 is left for the order of the additions, which made no difference
# between identical rows in any case that was measured on a CPU.
_NOISE_FLOOR = 2.0**-22

# Squared norms between which no term that matters over- or underflows: the double
# of one is finite, and entries whose squares vanish are below 2^-23 of the norm.
_ORDINARY = (2.0**-80, 2.0**120)

# Both a unit and its reciprocal are normal numbers; a smaller one would be taken for 0.
_UNITS = (2.0**-126, 2.0**126)

LARGEST = float(np.finfo(np.float32).max)

# Bound on the length of the rounding error in a sum of vectors, relative to theirs.
_ERROR = 2.0**-21


class Lengths(NamedTuple):
    """Euclidean norms of rows: `norms` times `units`, which float32 may not hold."""

    norms: Array  # f32 [n]
    units: Array  # f32 [n], powers of two


class Pairs(NamedTuple):
    """Squared distances between rows: `squared` times the squares of `units`."""

    squared: Array  # f32 [n, n]
    units: Array  # f32 [n, n], powers of two


@compiled()
def gram(updates: Array) -> Array:
    """Returns all inner products f32 [n, n], exactly symmetric.

    They are +-inf or 0 where float32 does not hold them; see `scaled_gram`.

    Args:
      updates: f32 [n, d].
    """
    return _gram(updates.shape[1], lambda cut: cut(updates))


def _gram(d: int, rows: Callable[[Callable[[Array], Array]], Array]) -> Array:
    """The products of rows that may be made of others, a block of parameters at a time.

    Args:
      d: parameters.
      rows: gives f32 [n, k] of the k parameters that the given function cuts out of
        the last axis of an array.
    """

    def product(block: Array) -> Array:
        # With the parameters in rows XLA's CPU product takes half to two thirds of the
        # time (d = 1.2e6: 22 instead of 40 ms for 25 clients, 78 for 121 for 50); left
        # to itself the compiler folds the transposition away.
        columns = lax.optimization_barrier(block.T)
        return jnp.matmul(columns.T, columns, precision=lax.Precision.HIGHEST)

    def block_product(i: Array) -> Array:
        return product(
            rows(lambda x: lax.dynamic_slice_in_dim(x, i * _BLOCK, _BLOCK, axis=-1))
        )

    total = product(rows(lambda x: x[..., d - d % _BLOCK :]))
    if d >= _BLOCK:
        total += lax.map(block_product, jnp.arange(d // _BLOCK)).sum(0)
    return 0.5 * (total + total.T)


@compiled()
def scaled_gram(updates: Array) -> tuple[Array, Array]:
    """Returns the products f32 [n, n] of rows in units, and the units f32 [n].

    The product of rows i and j is that of the result times units i and j; the units are
    1 where all rows are of ordinary length.

    Args:
      updates: f32 [n, d].
    """
    plain = gram(updates)
    ones = jnp.ones(len(updates))
    squares = jnp.diagonal(plain)
    low, high = _ORDINARY
    ordinary = (low <= squares) & (squares <= high)

    def scaled() -> tuple[Array, Array]:
        units = row_units(updates)
        inverse = 1.0 / units[:, None]
        # A row of zeros is as good as one of ordinary length.
        zero = (squares == 0) & (units == 1)
        return lax.cond(
            (ordinary | zero).all(),
            lambda: (plain, ones),
            lambda: (
                _gram(updates.shape[1], lambda cut: inverse * cut(updates)),
                units,
            ),
        )

    return lax.cond(ordinary.all(), lambda: (plain, ones), scaled)


@compiled()
def row_units(updates: Array) -> Array:
    """Returns powers of two f32 [n], by which rows [n, d] come near to 1.

    The largest entry of a row is 1 to 4 units; that of a row of zeros is 1.
    """
    return _unit(jnp.abs(updates).max(axis=1, initial=0.0))


def _unit(values: Array) -> Array:
    """The power of two at or below each value of at least 0; of 0 it is 1."""
    exponent = lax.bitcast_convert_type(values, jnp.uint32) & np.uint32(0x7F800000)
    power = lax.bitcast_convert_type(exponent, jnp.float32)
    return jnp.where(values > 0, jnp.clip(power, *_UNITS), 1.0)


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
def row_lengths(updates: Array) -> Lengths:
    """Returns the Euclidean norms of rows, of any finite numbers.

    Args:
      updates: f32 [n, d].
    """
    squares = (updates * updates).sum(1)
    low, high = _ORDINARY

    def scaled() -> Lengths:
        units = row_units(updates)
        rows = (1.0 / units)[:, None] * updates
        return Lengths(jnp.linalg.norm(rows, axis=1), units)

    return lax.cond(
        ((low <= squares) & (squares <= high)).all(),
        lambda: Lengths(jnp.sqrt(squares), jnp.ones_like(squares)),
        scaled,
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
    low, high = _ORDINARY
    near = (low <= units) & (units <= high / 2.0**64)
    first = jnp.where(near, 1.0, 1.0 / units)
    second = jnp.where(near, 1.0 / units, 1.0) / jnp.where(norms > 0, norms, 1.0)
    return second[:, None] * (first[:, None] * updates)


@compiled()
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
    # In units of the longer of the two, u may dwarf g and the other way round.
    lengths, start = row_lengths(updates), row_lengths(origin[None])
    unit = jnp.maximum(
        *(jnp.where(x.norms > 0, x.units, 0.0) for x in (lengths, start))
    )
    unit = jnp.where(unit > 0, unit, 1.0)
    own = lengths.norms * (lengths.units / unit)  # |u|
    base = start.norms * (start.units / unit)  # |g|
    inverse = (1.0 / unit)[:, None]
    ends = jnp.linalg.norm(inverse * origin[None] + inverse * updates, axis=1)  # |w|
    forward = unit_rows(origin[None], start)[0]
    norms = jnp.where(lengths.norms > 0, lengths.norms, 1.0)
    shortened = 1.0 / lengths.units[:, None]
    along = lax.cond(
        (lengths.units == 1).all(),
        lambda: jnp.matmul(updates, forward, precision=lax.Precision.HIGHEST),
        lambda: (shortened * updates * forward[None]).sum(1),
    )
    along = base * (along / norms)
    zero = ends == 0
    safe = jnp.where(zero, 1.0, ends)
    share = own / safe
    # |g|/|w| - 1, where |w|^2 - |g|^2 = |u| (2 g.u/|u| + |u|).
    shift = -(own / jnp.where(zero, 1.0, ends + base)) * ((2.0 * along + own) / safe)
    shift = jnp.where(start.norms > 0, shift, 0.0)
    # The differences, share u/|u| + shift g/|g|, at about length 1.
    units = _unit(share + jnp.abs(shift))
    turn, bend = (share / units / norms)[:, None], (shift / units)[:, None]
    products = _gram(
        updates.shape[1],
        lambda cut: turn * (shortened * cut(updates)) + bend * cut(forward)[None],
    )
    distances = 0.5 * squares_in(pairs_of(products, units), 1.0)
    # What is left of a sum of two opposite vectors is the rounding error of both.
    error = _ERROR * (share + jnp.abs(shift))
    within = distances <= 0.5 * (error[:, None] + error[None, :]) ** 2
    distances = jnp.where(within, 0.0, distances)
    off_diagonal = ~jnp.eye(len(zero), dtype=bool)
    return jnp.where((zero[:, None] | zero[None, :]) & off_diagonal, 1.0, distances)
