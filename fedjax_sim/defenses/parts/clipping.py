"""Updates shortened to a bound on their norm."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import Cohort, with_score
from fedjax_sim.numerics import order_statistics
from fedjax_sim.numerics.distances import Lengths, in_float32


class ClipFactors(NamedTuple):
    """What rows are multiplied by, one after the other; no number is too large for it.

    A row of 3e38 is shortened to 1e-3 by a factor that float32 takes for 0.
    """

    first: Array  # f32 [n], a power of two
    second: Array  # f32 [n]

    @property
    def value(self) -> Array:
        """Their product f32 [n], for the report; 0 where float32 does not hold it."""
        return self.first * self.second


def median_norm(norms: Array, mask: Array) -> Array:
    """Returns the median f32 [] of the norms (f32 [n]) of the clients of `mask`."""
    return order_statistics.median(norms[:, None], mask)[0]


def clip_factors(lengths: Lengths, limit: Array | float) -> ClipFactors:
    """Returns min(1, limit / norm) of n rows; `limit` is positive, f32 [] or [n]."""
    norms, units = lengths
    longer = in_float32(lengths) > limit
    return ClipFactors(
        jnp.where(longer, 1.0 / units, 1.0), jnp.where(longer, limit / norms, 1.0)
    )


def only(factors: ClipFactors, mask: Array) -> ClipFactors:
    """Returns the factors of the rows of `mask` (bool [n]); the others have 1."""
    return ClipFactors(*(jnp.where(mask, factor, 1.0) for factor in factors))


def times(factors: ClipFactors, rows: Array) -> Array:
    """Returns rows f32 [n, k] times their factors."""
    return factors.second[:, None] * (factors.first[:, None] * rows)


def shorten(cohort: Cohort, factors: ClipFactors) -> Cohort:
    """Multiplies the updates by their factors; the score is `clip_factor` f32 [n]."""
    cohort = cohort._replace(updates=times(factors, cohort.updates))
    return with_score(cohort, "clip_factor", factors.value)
