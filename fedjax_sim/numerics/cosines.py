"""Cosine distances between models, or updates, that are nearly parallel.

Letters: `n` clients, `d` parameters.
"""

import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.core.compiled import compiled
from fedjax_sim.numerics.common_part import close_pairs_of
from fedjax_sim.numerics.distances import row_lengths, squares_in, unit_rows

# Bound on the length of the rounding error in a sum of vectors, relative to theirs.
_ERROR = 2.0**-21


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
    # Or each of their uses would read all parameters anew.
    ends, along = lax.optimization_barrier((ends, along))
    zero = ends == 0
    safe = jnp.where(zero, 1.0, ends)
    share = own / safe
    # |g|/|w| - 1, where |w|^2 - |g|^2 = |u| (2 g.u/|u| + |u|).
    shift = -(own / jnp.where(zero, 1.0, ends + base)) * ((2.0 * along + own) / safe)
    shift = jnp.where(start.norms > 0, shift, 0.0)
    turn = (share / norms)[:, None]
    # share u/|u| + shift g/|g|, made a block of parameters at a time.
    turned = lambda cut: (
        turn * (shortened * cut(updates)) + shift[:, None] * cut(forward)[None]
    )
    found = close_pairs_of(len(origin), turned, ~zero, jnp.arange(len(zero)))
    distances = 0.5 * squares_in(found, 1.0)
    # What is left of a sum of two opposite vectors is the rounding error of both.
    error = _ERROR * (share + jnp.abs(shift))
    within = distances <= 0.5 * (error[:, None] + error[None, :]) ** 2
    distances = jnp.where(within, 0.0, distances)
    off_diagonal = ~jnp.eye(len(zero), dtype=bool)
    return jnp.where((zero[:, None] | zero[None, :]) & off_diagonal, 1.0, distances)
