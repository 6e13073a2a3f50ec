"""IQR and Clip-Averaging together: hard clipping of the clients that stand out.

From a short article on backdoors in federated CIFAR-10, whose listing "Clip_Avg" is
this hybrid. The values are our reading of it, see `clip_avg`.
"""

from typing import Literal

import jax.numpy as jnp

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    RoundContext,
    included,
    with_score,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, NonNegative, Sizable, Traced, checked
from fedjax_sim.defenses.clip_avg import decayed_bound
from fedjax_sim.defenses.iqr_filter import above_fence
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.clipping import clip_factors, only, shorten
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics.distances import Lengths, in_float32, row_lengths

Variant = Literal["corrected", "as_printed"]


@checked("defense")
def iqr_clip_avg(
    *,
    variant: Variant = "corrected",
    clip_norm: Traced[Sizable] = 1.0,
    clip_decay: Traced[NonNegative] = 0.5,
    lr: Traced[Sizable] = 0.01,
    local_steps: Count = 1,
    iqr_k: Traced[NonNegative] = 0.3,
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
      lr: the clients' learning rate.
      local_steps: the clients' steps in a round.
      iqr_k: how far above the third quartile a norm stands out, in lengths of the range
        between the quartiles.

    Raises:
      InputError: an option outside its range.
    """

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        mask = included(cohort)
        # An update is so much longer than its mean local gradient, and so is its limit.
        limit = decayed_bound(context.round, clip_norm, clip_decay)
        limit = limit * (lr * local_steps)
        lengths = row_lengths(cohort.updates)
        flagged = above_fence(in_float32(lengths), mask, iqr_k)
        divisors = lengths
        if variant == "as_printed":
            last = jnp.argmax(jnp.where(mask, cohort.client_ids, -1))
            divisors = Lengths(*(jnp.full_like(x, x[last]) for x in lengths))
        cohort = with_score(cohort, "flagged", flagged)
        return shorten(cohort, only(clip_factors(divisors, limit), flagged))

    return pipeline(stateless(judge))


ENTRY = Entry(
    iqr_clip_avg,
    paper="article on backdoors in federated CIFAR-10",
    weighs=True,
)
