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
    pipeline,
    with_score,
)
from fedjax_sim.defenses.clip_avg import check_gradient_bound, decayed_bound
from fedjax_sim.defenses.iqr_filter import above_fence
from fedjax_sim.defenses.norm_bound import shorten
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.checks import check_choice, check_range
from fedjax_sim.numerics.distances import row_norms

Variant = Literal["corrected", "as_printed"]


def iqr_clip_avg(
    *,
    variant: Variant = "corrected",
    clip_norm: float = 1.0,
    clip_decay: float = 0.5,
    lr: float = 0.01,
    local_steps: int = 1,
    iqr_k: float = 0.3,
) -> Defense:
    """Returns the mean of updates, in which outliers of the norm are clipped.

    A client whose mean local gradient is longer than Q3 + iqr_k (Q3 - Q1) of all is
    flagged (score `flagged` bool [n]) and clipped as `clip_avg` does; the others are
    left alone.

    Args:
      variant: `corrected` divides the bound by the length of the flagged gradient
        itself; `as_printed` by that of the last client (of the largest id) instead.
      clip_norm, clip_decay, lr, local_steps: see `clip_avg`.
      iqr_k: not negative.

    Raises:
      InputError: for an unknown variant or a number outside its range.
    """
    check_choice("variant", variant, Variant)
    check_gradient_bound(clip_norm, clip_decay, lr, local_steps)
    check_range("iqr_k", iqr_k, 0)

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        mask = included(cohort)
        norms = row_norms(cohort.updates) / (lr * local_steps)
        flagged = above_fence(norms, mask, iqr_k)
        divisors = norms
        if variant == "as_printed":
            last = jnp.argmax(jnp.where(mask, cohort.client_ids, -1))
            divisors = jnp.full_like(norms, norms[last])
        limit = decayed_bound(context.round, clip_norm, clip_decay)
        factors = jnp.minimum(1.0, limit / (divisors + 1e-10))
        cohort = with_score(cohort, "flagged", flagged)
        return shorten(cohort, jnp.where(flagged, factors, 1.0))

    return pipeline(stateless(judge))
