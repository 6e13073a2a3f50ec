"""IQR and Clip-Averaging together: hard clipping of the clients that stand out.

From a short article on backdoors in federated CIFAR-10, whose listing "Clip_Avg" is
this hybrid. The values are our reading of it, see `clip_avg`.
"""

from typing import Literal

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    RoundContext,
    included,
    with_score,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, NonNegative, Sizable, Traced, checked
from fedjax_sim.defenses.clip_avg import decayed_bound, local_path
from fedjax_sim.defenses.iqr_filter import above_fence
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.clipping import clip_factors, only, shorten, times
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics.distances import Lengths, in_float32, row_lengths

Variant = Literal["corrected", "as_printed"]


@checked("defense")
def iqr_clip_avg(
    *,
    variant: Variant = "corrected",
    clip_norm: Traced[Sizable] = 1.0,
    clip_decay: Traced[NonNegative] = 0.5,
    lr: Traced[Sizable] | None = None,
    local_steps: Count | None = None,
    iqr_k: Traced[NonNegative] = 0.3,
    whole_state: bool = False,
) -> Defense:
    """Returns the mean of updates, in which outliers of the norm are clipped.

    A client whose mean local gradient is longer than Q3 + iqr_k (Q3 - Q1) of all is
    flagged (score `flagged` bool [n]) and clipped as `clip_avg` does; the others are
    left alone.

    Args:
      variant: `corrected` divides the bound by the length of the flagged gradient
        itself; `as_printed` by that of the last client (of the largest id) instead.
      clip_norm: bound in the first round.
      clip_decay: exponent of the decay over the rounds.
      lr: the clients' learning rate; None is that of the run in this round.
      local_steps: the clients' steps in a round; None is what each client makes.
      iqr_k: how far above the third quartile a norm stands out, in lengths of the range
        between the quartiles.
      whole_state: norms are of all entries of the state, as the listing takes them:
        of BatchNorm's running statistics and counters of batches (T more in each
        layer) too, and the statistics are clipped as well.

    Raises:
      InputError: an option outside its range.
    """

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        mask = included(cohort)
        # An update is so much longer than its mean local gradient, and so is its limit.
        limit = decayed_bound(context.round, clip_norm, clip_decay)
        # Over lr T of each client, which differs where clients make different steps.
        path = local_path(context, lr, local_steps)
        changes = cohort.updates
        if whole_state:
            changes = _state_changes(cohort, context, path, lr)
        lengths = row_lengths(changes)
        # In units of the shortest path: nothing may leave float32.
        gradients = in_float32(lengths) * (jnp.min(path) / path)
        flagged = above_fence(gradients, mask, iqr_k)
        limit = limit * path
        divisors = lengths
        if variant == "as_printed":
            last = jnp.argmax(jnp.where(mask, cohort.client_ids, -1))
            divisors = Lengths(*(jnp.full_like(x, x[last]) for x in lengths))
        cohort = with_score(cohort, "flagged", flagged)
        factors = only(clip_factors(divisors, limit), flagged)
        if whole_state:
            before = context.global_buffers[None]
            moved = times(factors, cohort.buffers - before)
            cohort = cohort._replace(buffers=before + moved)
        return shorten(cohort, factors)

    return pipeline(stateless(judge))


def _state_changes(
    cohort: Cohort, context: RoundContext, path: Array, lr: float | Array | None
) -> Array:
    """f32 [n, k]: what clients changed of parameters, statistics and counters."""
    layers = len(context.network.buffer_layout.shapes) // 2  # mean and variance
    rate = context.local_lr if lr is None else lr
    assert rate is not None  # or there were no path
    batches = jnp.broadcast_to(path / rate, (len(cohort.updates),))
    counters = jnp.broadcast_to(batches[:, None], (len(batches), layers))
    moved = cohort.buffers - context.global_buffers[None]
    return jnp.concatenate([cohort.updates, moved, counters], axis=1)


ENTRY = Entry(
    iqr_clip_avg,
    paper="article on backdoors in federated CIFAR-10",
    weighs=True,
)
