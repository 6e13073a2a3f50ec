"""Clip-Averaging: clipping to a bound that decays over the rounds.

From a short article on backdoors in federated CIFAR-10. The article gives no values:
an initial bound of 1 is implied by its text, the decay of 0.5 is assumed.
"""

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import Cohort, Defense, RoundContext
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, NonNegative, Sizable, Traced, checked
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.clipping import clip_factors, shorten
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics.distances import row_lengths


@checked("defense")
def clip_avg(
    *,
    clip_norm: Traced[Sizable] = 1.0,
    clip_decay: Traced[NonNegative] = 0.5,
    lr: Traced[Sizable] | None = None,
    local_steps: Count | None = None,
) -> Defense:
    """Returns the mean of mean local gradients that are clipped in length.

    The gradient of a client is its update over -lr * local_steps; in round r (from 1)
    it is clipped to clip_norm * r^-clip_decay. Score: `clip_factor` f32 [n]. Running
    statistics are averaged as they are; the article treats them as parameters.

    Args:
      clip_norm: bound in the first round.
      clip_decay: exponent of the decay over the rounds.
      lr: the clients' learning rate; None is that of the run in this round.
      local_steps: the clients' steps in a round; None is what each client makes.

    Raises:
      InputError: an option outside its range.
    """

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        limit = decayed_bound(context.round, clip_norm, clip_decay)
        # The update is as much longer than the gradient.
        limit = limit * local_path(context, lr, local_steps)
        return shorten(cohort, clip_factors(row_lengths(cohort.updates), limit))

    return pipeline(stateless(judge))


def local_path(
    context: RoundContext, lr: float | Array | None, local_steps: int | None
) -> Array:
    """Returns lr * T, f32 [] or [n]: how much longer an update is than its gradient.

    Args:
      context: of the round, which knows both.
      lr, local_steps: in place of what it says; see `clip_avg`.

    Raises:
      ValueError: neither says it.
    """
    rate = context.local_lr if lr is None else lr
    steps = context.local_steps if local_steps is None else local_steps
    if rate is None or steps is None:
        raise ValueError("the context says nothing of the clients' local work")
    # A place of the cohort that stayed empty has made no step, and weight 0.
    return rate * jnp.maximum(jnp.asarray(steps, jnp.float32), 1.0)


def decayed_bound(
    round_index: Array, clip_norm: float | Array, clip_decay: float | Array
) -> Array:
    """Returns clip_norm * r^-clip_decay (f32 []) for the round r, from 1."""
    return clip_norm * jnp.power(round_index.astype(jnp.float32), -clip_decay)


ENTRY = Entry(
    clip_avg,
    paper="article on backdoors in federated CIFAR-10",
    weighs=True,
)
