"""Inner products of updates, block by block, and the powers of two that they come in.

Letters: `n` rows, `d` columns.
"""

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


@compiled()
def gram(rows: Array) -> Array:
    """Returns all inner products f32 [n, n], exactly symmetric.

    They are +-inf or 0 where float32 does not hold them; see `scaled_gram`.

    Args:
      rows: f32 [n, d].
    """
    return _gram(rows, None, None)


def _gram(rows: Array, centre: Array | None, factors: Array | None) -> Array:
    """Products of the rows, or of half their offsets to a centre, times `factors`."""
    d = rows.shape[1]

    def product(block: Array, of_centre: Array | None) -> Array:
        block = _halved(block, of_centre)
        if factors is not None:
            block = factors[:, None] * block
        # With the columns in rows XLA's CPU product takes half to two thirds of the
        # time (d = 1.2e6: 22 instead of 40 ms for 25 clients, 78 for 121 for 50); left
        # to itself the compiler folds the transposition away.
        columns = lax.optimization_barrier(block.T)
        return jnp.matmul(columns.T, columns, precision=lax.Precision.HIGHEST)

    def block_product(i: Array) -> Array:
        cut = lambda x: lax.dynamic_slice_in_dim(x, i * _BLOCK, _BLOCK, axis=-1)
        return product(cut(rows), None if centre is None else cut(centre))

    rest = d - d % _BLOCK
    total = product(rows[:, rest:], None if centre is None else centre[rest:])
    if d >= _BLOCK:
        total += lax.map(block_product, jnp.arange(d // _BLOCK)).sum(0)
    return 0.5 * (total + total.T)


def _halved(rows: Array, centre: Array | None) -> Array:
    # Half: the difference of two numbers of float32 may exceed it.
    return rows if centre is None else 0.5 * rows - 0.5 * centre[None]


@compiled()
def row_squares(rows: Array, centre: Array | None = None) -> Array:
    """Returns the squared norms f32 [n] of rows, or of half their offsets to a centre.

    Block by block, at the speed of the memory: a reduction along rows takes twice as
    long (XLA on CPU). What float32 does not hold is +-inf or 0.

    Args:
      rows: f32 [n, d].
      centre: f32 [d].
    """
    d = rows.shape[1]

    def total(block: Array, of_centre: Array | None) -> Array:
        # The compiler must not see that these are ones.
        ones = lax.optimization_barrier(jnp.ones(block.shape[1]))
        squares = jnp.square(_halved(block, of_centre))
        return jnp.matmul(squares, ones, precision=lax.Precision.HIGHEST)

    def of_block(i: Array) -> Array:
        cut = lambda x: lax.dynamic_slice_in_dim(x, i * _BLOCK, _BLOCK, axis=-1)
        return total(cut(rows), None if centre is None else cut(centre))

    rest = d - d % _BLOCK
    found = total(rows[:, rest:], None if centre is None else centre[rest:])
    if d >= _BLOCK:
        found += lax.map(of_block, jnp.arange(d // _BLOCK)).sum(0)
    return found


@compiled()
def scaled_gram(rows: Array, centre: Array | None = None) -> tuple[Array, Array]:
    """Returns the products f32 [n, n] of rows in units, and the units f32 [n].

    The product of rows i and j is that of the result times units i and j; the units are
    1 where all rows are of ordinary length.

    Args:
      rows: f32 [n, d].
      centre: f32 [d]: instead of the rows, half their differences to it.
    """
    plain = _gram(rows, centre, None)
    ones = jnp.ones(len(rows))
    squares = jnp.diagonal(plain)
    low, high = ORDINARY
    ordinary = (low <= squares) & (squares <= high)

    def scaled() -> tuple[Array, Array]:
        units = row_units(_halved(rows, centre))
        # A row of zeros is as good as one of ordinary length.
        zero = (squares == 0) & (units == 1)
        # Nor may it be longer than tiny ones, whose distance to it would be 0.
        least = jnp.where(zero, jnp.inf, units).min()
        own = jnp.where(zero & jnp.isfinite(least), least, units)
        return lax.cond(
            (ordinary | zero).all(),
            lambda: (plain, ones),
            lambda: (_gram(rows, centre, 1.0 / own), own),
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
