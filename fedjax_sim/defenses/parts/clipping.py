"""Updates shortened to a bound on their norm."""

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import Cohort, with_score
from fedjax_sim.numerics import order_statistics


def median_norm(norms: Array, mask: Array) -> Array:
    """Returns the median f32 [] of the norms (f32 [n]) of the clients of `mask`."""
    return order_statistics.median(norms[:, None], mask)[0]


def clip_factors(norms: Array, limit: Array | float) -> Array:
    """Returns min(1, limit / norm) f32 [n]."""
    return jnp.where(norms > limit, limit / norms, 1.0)


def shorten(cohort: Cohort, factors: Array) -> Cohort:
    """Multiplies the updates by `factors` f32 [n]; the score is `clip_factor`."""
    cohort = cohort._replace(updates=factors[:, None] * cohort.updates)
    return with_score(cohort, "clip_factor", factors)
