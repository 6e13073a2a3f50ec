"""Norm bounding.

Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor Federated Learning?", 2019
(arXiv 1911.07963), section 4. How the bound is chosen: Xie, Fang, Gong
(FedREDefense), ICML 2024, take the mean norm of the benign updates.
"""

from typing import Literal

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    RoundContext,
    included,
    pipeline,
    with_score,
)
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.checks import check_choice
from fedjax_sim.numerics import order_statistics
from fedjax_sim.numerics.distances import row_norms

Bound = Literal["median", "oracle"]


def norm_bound(*, bound: Bound = "median") -> Defense:
    """Returns the mean of updates that are shortened to a common bound.

    The cohort gets the factors f32 [n] as the score `clip_factor`.

    Args:
      bound: `median` of the norms of all clients that count; `oracle`: the mean norm
        of the truly benign ones (of all, if there are none), which no real server
        knows.

    Raises:
      InputError: for an unknown bound.
    """
    check_choice("bound", bound, Bound)

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        norms = row_norms(cohort.updates)
        mask = included(cohort)
        if bound == "median":
            limit = median_norm(norms, mask)
        else:
            benign = mask & ~context.malicious
            benign = jnp.where(benign.any(), benign, mask)
            limit = jnp.where(benign, norms, 0.0).sum() / benign.sum()
        return shorten(cohort, clip_factors(norms, limit))

    return pipeline(stateless(judge))


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
