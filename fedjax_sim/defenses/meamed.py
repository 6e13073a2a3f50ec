"""Meamed: in each coordinate the mean of the values around the median.

Xie, Koyejo, Gupta, "Generalized Byzantine-tolerant SGD", 2018 (arXiv 1802.10116),
Definition 9 (m).
"""

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
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.errors import check_range
from fedjax_sim.core.options import Natural, Traced, checked
from fedjax_sim.defenses.parts.building import with_count
from fedjax_sim.defenses.parts.byzantine import byzantine_count, check_quorum
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics.distances import finite
from fedjax_sim.numerics.nearest_values import mean_near_median


@checked("defense")
def meamed(*, num_byzantine: Traced[Natural] | None = None) -> Defense:
    """Returns in each coordinate the mean of the n - f values nearest to the median.

    n are the clients that count; of an even number the median lies between the middle
    two. Where equally near values compete for the last place, the smaller client id has
    it. With too few clients for f, more than half of the values are taken. "(m)" above:
    the number in the paper is from memory.

    Args:
      num_byzantine: f; by default the malicious clients to expect in a cohort (an
        oracle: a real server has to guess it).

    Raises:
      InputError: an option outside its range; by `init`, 2f clients or fewer.
    """

    def resolve(spec: FederationSpec) -> int:
        check_range("defense", "num_byzantine", num_byzantine, 0, spec.cohort_size)
        f = byzantine_count(spec, num_byzantine)
        check_quorum(spec, f, 2, 1)
        return f

    def rule(f: Array) -> Defense:
        def reduce(cohort: Cohort, context: RoundContext) -> Aggregate:
            del context
            mask, order = included(cohort), jnp.argsort(cohort.client_ids)
            count = mask.sum() - jnp.minimum(f, (mask.sum() - 1) // 2)

            def average(rows: Array) -> Array:
                return finite(mean_near_median(rows, mask, count, order))

            return Aggregate(average(cohort.updates), average(cohort.buffers))

        return pipeline(reduce=reduce)

    return with_count(resolve, rule)


ENTRY = Entry(
    meamed,
    paper="Xie, Koyejo, Gupta 2018, arXiv 1802.10116",
    oracle="the number of malicious clients, unless num_byzantine is given",
)
