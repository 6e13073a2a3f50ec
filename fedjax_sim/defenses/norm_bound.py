"""Norm bounding.

Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor Federated Learning?", 2019
(arXiv 1911.07963), section 4. How the bound is chosen: Xie, Fang, Gong
(FedREDefense), ICML 2024, take the mean norm of the benign updates.
"""

from typing import Literal

import jax.numpy as jnp

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    RoundContext,
    included,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import checked
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.clipping import clip_factors, median_norm, shorten
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics.distances import in_float32, row_lengths

Bound = Literal["median", "oracle"]


@checked("defense")
def norm_bound(*, bound: Bound = "median") -> Defense:
    """Returns the mean of updates that are shortened to a common bound.

    The cohort gets the factors f32 [n] as the score `clip_factor`.

    Args:
      bound: `median` of the norms of all clients that count; `oracle`: the mean norm
        of the truly benign ones (of all, if there are none), which no real server
        knows.

    Raises:
      InputError: an option outside its range.
    """

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        lengths = row_lengths(cohort.updates)
        norms = in_float32(lengths)
        mask = included(cohort)
        if bound == "median":
            limit = median_norm(norms, mask)
        else:
            benign = mask & ~context.malicious
            benign = jnp.where(benign.any(), benign, mask)
            limit = jnp.where(benign, norms / benign.sum(), 0.0).sum()
        return shorten(cohort, clip_factors(lengths, limit))

    return pipeline(stateless(judge))


ENTRY = Entry(
    norm_bound,
    paper="Sun et al. 2019, arXiv 1911.07963",
    oracle="none; with bound=oracle the norms of the truly benign updates",
    weighs=True,
)
