"""Clip-Averaging: clipping to a bound that decays over the rounds.

From a short article on backdoors in federated CIFAR-10. The article gives no values:
an initial bound of 1 is implied by its text, the decay of 0.5 is assumed.
"""

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import Cohort, Defense, RoundContext, pipeline
from fedjax_sim.defenses.norm_bound import clip_factors, shorten
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.checks import check_range
from fedjax_sim.numerics.distances import row_norms


def clip_avg(
    *,
    clip_norm: float = 1.0,
    clip_decay: float = 0.5,
    lr: float = 0.01,
    local_steps: int = 1,
) -> Defense:
    """Returns the mean of mean local gradients that are clipped in length.

    The gradient of a client is its update over -lr * local_steps; in round r (from 1)
    it is clipped to clip_norm * r^-clip_decay. Score: `clip_factor` f32 [n]. Running
    statistics are averaged as they are; the article treats them as parameters.

    Args:
      clip_norm: bound in the first round, above 0.
      clip_decay: exponent, not negative.
      lr: the clients' learning rate.
      local_steps: their steps in a round.

    Raises:
      InputError: for a number outside its range.
    """
    check_gradient_bound(clip_norm, clip_decay, lr, local_steps)

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        norms = row_norms(cohort.updates) / (lr * local_steps)
        limit = decayed_bound(context.round, clip_norm, clip_decay)
        return shorten(cohort, clip_factors(norms, limit))

    return pipeline(stateless(judge))


def decayed_bound(
    round_index: Array, clip_norm: float | Array, clip_decay: float | Array
) -> Array:
    """Returns clip_norm * r^-clip_decay (f32 []) for the round r, from 1."""
    return clip_norm * jnp.power(round_index.astype(jnp.float32), -clip_decay)


def check_gradient_bound(clip_norm, clip_decay, lr, local_steps) -> None:
    """Raises InputError for a number outside its range."""
    check_range("clip_norm", clip_norm, 1e-12)
    check_range("clip_decay", clip_decay, 0)
    check_range("lr", lr, 1e-12)
    check_range("local_steps", local_steps, 1)
