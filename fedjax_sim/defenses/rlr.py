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
    FederationSpec,
    Reduce,
    RoundContext,
    included,
    pipeline,
    weighted_mean,
)
from fedjax_sim.defenses.parts.building import told
from fedjax_sim.defenses.parts.checks import check_range


def rlr(*, threshold: int = 4) -> Defense:
    """Returns the mean, negated where fewer clients than the threshold agree.

    In each coordinate the signs of the updates vote; the mean counts where their sum
    reaches the threshold, and its negative elsewhere.

    Args:
      threshold: theta, from 1 to n (4 for ten clients in the paper). It should exceed
        the number of malicious clients.

    Raises:
      InputError: by `init`, for a threshold that no cohort could reach.
    """

    def resolve(spec: FederationSpec) -> int:
        check_range("threshold", threshold, 1, spec.cohort_size)
        return threshold

    return told(resolve, lambda theta: pipeline(reduce=_by_signs(theta)))


def _by_signs(threshold: Array) -> Reduce:
    mean = weighted_mean()

    def reduce(cohort: Cohort, context: RoundContext) -> Aggregate:
        result = mean(cohort, context)
        votes = included(cohort).astype(jnp.float32) @ jnp.sign(cohort.updates)
        agreed = jnp.abs(votes) >= threshold
        return result._replace(update=jnp.where(agreed, 1.0, -1.0) * result.update)

    return reduce
