"""Inner products of updates, block by block, and the powers of two that they come in.

Letters: `n` rows, `d` columns.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fedjax_sim.core.compiled import compiled

# Columns per product. One product over all of d is two to three times slower on a CPU
# and, as it adds up d terms in one go, ten times less precise.
_BLOCK = 16384

# Squared norms between which no term that matters over- or underflows: the double
# of one is finite, and entries whose squares vanish are below 2^-23 of the norm.
ORDINARY = (2.0**-80, 2.0**120)

# Both a unit and its reciprocal are normal numbers; a smaller one would be taken for 0.
_UNITS = (2.0**-126, 2.0**126)


# Takes the same columns of every array that it is given, [..., d].
Cut = Callable[[Array], Array]
# Rows f32 [n, columns] that are made of others, from the columns that are cut out.
RowsOf = Callable[[Cut], Array]


@compiled()
def gram(rows: Array) -> Array:
    """Returns all inner products f32 [n, n], exactly symmetric.

    They are +-inf or 0 where float32 does not hold them; see `scaled_gram`.

    Args:
      rows: f32 [n, d].
    """
    return _gram_of(rows.shape[1], lambda cut: cut(rows))


def _gram_of(d: int, rows_of: RowsOf) -> Array:
    """The products of rows of d columns, of which one block at a time is made."""

    def product(cut: Cut) -> Array:
        # With the columns in rows XLA's CPU product takes half to two thirds of the
        # time (d = 1.2e6: 22 instead of 40 ms for 25 clients, 78 for 121 for 50); left
        # to itself the compiler folds the transposition away.
        columns = lax.optimization_barrier(rows_of(cut).T)
        return jnp.matmul(columns.T, columns, precision=lax.Precision.HIGHEST)

    total = _over_blocks(d, product)
    return 0.5 * (total + total.T)


def _over_blocks(d: int, of_block: Callable[[Cut], Array]) -> Array:
    """The sum of what `of_block` gives for each block of d columns."""
    total = of_block(lambda x: x[..., d - d % _BLOCK :])
    if d >= _BLOCK:
        block = lambda i: of_block(columns_from(i * _BLOCK, _BLOCK))
        total += lax.map(block, jnp.arange(d // _BLOCK)).sum(0)
    return total


def columns_from(start: Array, count: int) -> Cut:
    """Returns what cuts `count` columns out of an array, from `start` on."""
    return lambda x: lax.dynamic_slice_in_dim(x, start, count, axis=-1)


def halved(rows_of: RowsOf, centre: Array) -> RowsOf:
    """Returns half the differences of the rows to a centre f32 [d].

    Half, because the difference of two numbers of float32 may exceed it.
    """
    return lambda cut: 0.5 * rows_of(cut) - 0.5 * cut(centre)[None]


@compiled()
def row_squares(rows: Array, centre: Array | None = None) -> Array:
    """Returns the squared norms f32 [n] of rows, or of half their offsets to a centre.

    Block by block, at the speed of the memory: a reduction along rows takes twice as
    long (XLA on CPU). What float32 does not hold is +-inf or 0.

    Args:
      rows: f32 [n, d].
      centre: f32 [d].
    """
    rows_of: RowsOf = lambda cut: cut(rows)
    if centre is not None:
        rows_of = halved(rows_of, centre)

    def squares(cut: Cut) -> Array:
        block = rows_of(cut)
        # The compiler must not see that these are ones.
        ones = lax.optimization_barrier(jnp.ones(block.shape[1]))
        return jnp.matmul(jnp.square(block), ones, precision=lax.Precision.HIGHEST)

    return _over_blocks(rows.shape[1], squares)


@compiled()
def scaled_gram(rows: Array, centre: Array | None = None) -> tuple[Array, Array]:
    """Returns the products f32 [n, n] of rows in units, and the units f32 [n].

    The product of rows i and j is that of the result times units i and j; the units are
    1 where all rows are of ordinary length.

    Args:
      rows: f32 [n, d].
      centre: f32 [d]: instead of the rows, half their differences to it.
    """
    rows_of: RowsOf = lambda cut: cut(rows)
    if centre is not None:
        rows_of = halved(rows_of, centre)
    return scaled_gram_of(rows.shape[1], rows_of)


def scaled_gram_of(
    d: int, rows_of: RowsOf, zeros: Array | None = None
) -> tuple[Array, Array]:
    """Returns `scaled_gram` of rows of d columns that are made of others.

    Args:
      d: columns.
      rows_of: makes the rows.
      zeros: bool [n], rows that are known to be 0: of another row whose square is 0 the
        values are looked at.
    """
    plain = _gram_of(d, rows_of)
    ones = jnp.ones(len(plain))
    squares = jnp.diagonal(plain)
    low, high = ORDINARY
    ordinary = (low <= squares) & (squares <= high)
    if zeros is not None:
        ordinary |= zeros

    def scaled() -> tuple[Array, Array]:
        units = row_units(rows_of(lambda x: x))
        # A row of zeros is as good as one of ordinary length.
        zero = (squares == 0) & (units == 1)
        # Nor may it be longer than tiny ones, whose distance to it would be 0.
        least = jnp.where(zero, jnp.inf, units).min()
        own = jnp.where(zero & jnp.isfinite(least), least, units)
        return lax.cond(
            (ordinary | zero).all(),
            lambda: (plain, ones),
            lambda: (_gram_of(d, lambda cut: rows_of(cut) / own[:, None]), own),
        )

    return lax.cond(ordinary.all(), lambda: (plain, ones), scaled)


@compiled()
def row_units(rows: Array) -> Array:
    """Returns powers of two f32 [n], by which rows [n, d] come near to 1.

    The largest entry of a row is 1 to 4 units; that of a row of zeros is 1.
    """
    largest = jnp.abs(rows).max(axis=1, initial=0.0)
    exponent = lax.bitcast_convert_type(largest, jnp.uint32) & np.uint32(0x7F800000)
    power = lax.bitcast_convert_type(exponent, jnp.float32)
    return jnp.where(largest > 0, jnp.clip(power, *_UNITS), 1.0)
