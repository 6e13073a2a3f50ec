"""Weak differential privacy: clipped updates, and noise on their mean.

Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor Federated Learning?", 2019
(arXiv 1911.07963), section 4.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import (
    Aggregate,
    Cohort,
    Defense,
    RoundContext,
    included,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import NonNegative, Sizable, Traced, checked
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.clipping import clip_factors, shorten
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics.distances import finite, row_lengths

Variant = Literal["paper", "backfed", "flpoison"]

# BackFed moves the model by so much of the mean, and by all of the noise.
_BACKFED_RATE = 0.1


@checked("defense")
def weak_dp(
    *,
    variant: Variant = "paper",
    clip_norm: Traced[Sizable] = 3.0,
    noise_sigma: Traced[NonNegative] = 0.025,
) -> Defense:
    """Returns the mean of updates clipped to a fixed norm, plus Gaussian noise.

    The noise has standard deviation `noise_sigma` in every parameter; running
    statistics have none. Score: `clip_factor` f32 [n].

    Args:
      variant: `paper` as above; `backfed` weighs by the number of samples and takes a
        tenth of the mean, but all of the noise; `flpoison` adds noise to each client
        before the mean, so that sigma / sqrt(n) is left of it.
      clip_norm: c, longest update that counts in full (5 in BackFed).
      noise_sigma: sigma (0.002 in FLPoison).

    Raises:
      InputError: an option outside its range.
    """

    def clip(cohort: Cohort, context: RoundContext) -> Cohort:
        del context
        cohort = shorten(cohort, clip_factors(row_lengths(cohort.updates), clip_norm))
        if variant == "backfed":
            counts = jnp.where(included(cohort), cohort.num_examples, 0)
            cohort = cohort._replace(weights=counts.astype(jnp.float32))
        return cohort

    def reduce(cohort: Cohort, context: RoundContext) -> Aggregate:
        shape = context.global_params.shape
        if variant == "flpoison":
            keys = jax.vmap(jax.random.fold_in, (None, 0))(
                context.key, cohort.client_ids
            )
            noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        else:
            noise = jax.random.normal(context.key, shape)
        return noisy_mean(cohort, noise, noise_sigma, variant)

    return pipeline(stateless(clip), reduce=reduce)


def noisy_mean(
    cohort: Cohort, noise: Array, sigma: float | Array, variant: Variant
) -> Aggregate:
    """Returns the mean of a cohort with `sigma` times the noise.

    Args:
      cohort: of n clients, clipped.
      noise: standard normal, f32 [d]; f32 [n, d] in the variant `flpoison`.
      sigma: standard deviation.
      variant: see `weak_dp`.
    """
    shares = cohort.weights / cohort.weights.sum()
    mean = shares @ cohort.updates
    if variant == "backfed":
        mean = _BACKFED_RATE * mean
    added = shares @ noise if variant == "flpoison" else noise
    return Aggregate(finite(mean + sigma * added), finite(shares @ cohort.buffers))


ENTRY = Entry(
    weak_dp,
    paper="Sun et al. 2019, arXiv 1911.07963",
    weighs=True,
)
