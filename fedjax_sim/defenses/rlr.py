"""RLR: a robust learning rate for each parameter.

Ozdayi, Kantarcioglu, Gel, "Defending against Backdoors in Federated Learning with
Robust Learning Rate", AAAI 2021, section 4, eq. 4.
"""

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import (
    Aggregate,
    Cohort,
    Defense,
    Reduce,
    RoundContext,
    included,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.errors import check_range
from fedjax_sim.core.options import Count, Traced, checked
from fedjax_sim.defenses.parts.building import with_count
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.defenses.parts.reductions import weighted_mean


@checked("defense")
def rlr(*, threshold: Traced[Count] = 4) -> Defense:
    """Returns the mean, negated where fewer clients than the threshold agree.

    In each coordinate the signs of the updates vote; the mean counts where their sum
    reaches the threshold, and its negative elsewhere.

    Args:
      threshold: theta, at most n (4 for ten clients in the paper). It should exceed the
        number of malicious clients.

    Raises:
      InputError: an option outside its range; by `init`, a threshold that no cohort
        could reach.
    """

    def resolve(spec: FederationSpec) -> int:
        check_range("defense", "threshold", threshold, 1, spec.cohort_size)
        return threshold

    return with_count(resolve, lambda theta: pipeline(reduce=_by_signs(theta)))


def _by_signs(threshold: Array) -> Reduce:
    mean = weighted_mean()

    def reduce(cohort: Cohort, context: RoundContext) -> Aggregate:
        result = mean(cohort, context)
        votes = included(cohort).astype(jnp.float32) @ jnp.sign(cohort.updates)
        agreed = jnp.abs(votes) >= threshold
        return result._replace(update=jnp.where(agreed, 1.0, -1.0) * result.update)

    return reduce


ENTRY = Entry(
    rlr,
    paper="Ozdayi et al., AAAI 2021",
    weighs=True,
)
