"""SparseFed: only the largest coordinates of an accumulated update are applied.

Panda, Mahloujifar, Bhagoji, Chakraborty, Mittal, "SparseFed: Mitigating Model
Poisoning Attacks in Federated Learning with Sparsification", AISTATS 2022, Algorithm
1; as in its released code ("true top-k" with virtual error).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    FederationSpec,
    RoundContext,
    included,
    pipeline,
)
from fedjax_sim.defenses.norm_bound import clip_factors, shorten
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.checks import check_range
from fedjax_sim.numerics.distances import row_norms
from fedjax_sim.numerics.order_statistics import largest


class SparseFedState(NamedTuple):
    """What has not been applied yet."""

    error: Array  # f32 [d]
    momentum: Array  # f32 [d]


def sparsefed(
    *, fraction: float = 0.1, momentum: float = 0.0, clip_norm: float | None = None
) -> Defense:
    """Returns the top k of the mean update, with error feedback and momentum.

    The mean update moves the momentum, the momentum the error; the k = max(1,
    round(fraction * d)) largest entries of the error are applied, and the error and
    the momentum are cleared there.

    Args:
      fraction: share of the coordinates that a round changes, above 0 and at most 1.
      momentum: of the server, between 0 and 1.
      clip_norm: updates are shortened to it before the mean; None leaves them.

    Raises:
      InputError: for a number outside its range.
    """
    check_range("fraction", fraction, 0, 1)
    check_range("momentum", momentum, 0, 1)
    check_range("clip_norm", clip_norm, 1e-12)

    def clip(cohort: Cohort, context: RoundContext) -> Cohort:
        del context
        return shorten(cohort, clip_factors(row_norms(cohort.updates), clip_norm))

    mean = pipeline(*() if clip_norm is None else (stateless(clip),))

    def init(spec: FederationSpec) -> tuple:
        zeros = jnp.zeros(spec.layout.size)
        return mean.init(spec), SparseFedState(zeros, zeros)

    def aggregate(state, cohort, context):
        inner, before = state
        inner, cohort, result = mean.aggregate(inner, cohort, context)
        after, update = sparsify(before, result.update, fraction, momentum)
        survived = included(cohort).any()
        kept = SparseFedState(
            *(jnp.where(survived, x, y) for x, y in zip(after, before, strict=True))
        )
        update = jnp.where(survived, update, 0.0)
        return (inner, kept), cohort, result._replace(update=update)

    def unchanged(state, model, cohort, context):
        del cohort, context
        return state, model

    return Defense(init, aggregate, unchanged)


def sparsify(
    state: SparseFedState,
    update: Array,
    fraction: float | Array,
    momentum: float | Array,
) -> tuple[SparseFedState, Array]:
    """Returns the new state, and what is applied of an update f32 [d]."""
    velocity = momentum * state.momentum + update
    error = state.error + velocity
    count = jnp.clip(jnp.round(fraction * len(error)), 1, len(error))
    applied = largest(jnp.abs(error), count.astype(jnp.int32))
    state = SparseFedState(
        error=jnp.where(applied, 0.0, error),
        momentum=jnp.where(applied, 0.0, velocity),
    )
    return state, jnp.where(applied, error, 0.0)
