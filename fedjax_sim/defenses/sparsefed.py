"""SparseFed: only the largest coordinates of an accumulated update are applied.

Panda, Mahloujifar, Bhagoji, Chakraborty, Mittal, "SparseFed: Mitigating Model
Poisoning Attacks in Federated Learning with Sparsification", AISTATS 2022, Algorithm
1; as in its released code ("true top-k" with virtual error).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import Cohort, Defense, RoundContext, included
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.options import Fraction, Sizable, Traced, checked
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.clipping import clip_factors, shorten
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics.distances import finite, row_lengths
from fedjax_sim.numerics.order_statistics import largest


class SparseFedState(NamedTuple):
    """What has not been applied yet."""

    error: Array  # f32 [d]
    momentum: Array  # f32 [d]


@checked("defense")
def sparsefed(
    *,
    fraction: Fraction = 0.1,
    momentum: Traced[Fraction] = 0.0,
    clip_norm: Traced[Sizable] | None = None,
) -> Defense:
    """Returns the top k of the mean update, with error feedback and momentum.

    The mean update moves the momentum, the momentum the error; the k = max(1,
    round(fraction * d)) largest entries of the error are applied, and the error and
    the momentum are cleared there.

    Args:
      fraction: share of the coordinates that a round changes; one at least.
      momentum: of the mean updates, kept by the server.
      clip_norm: updates are shortened to it before the mean; None leaves them.

    Raises:
      InputError: an option outside its range.
    """

    def clip(cohort: Cohort, context: RoundContext) -> Cohort:
        del context
        assert clip_norm is not None  # else nothing clips, see below
        return shorten(cohort, clip_factors(row_lengths(cohort.updates), clip_norm))

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
    velocity = finite(momentum * state.momentum + update)
    error = finite(state.error + velocity)
    count = jnp.clip(jnp.round(fraction * len(error)), 1, len(error))
    applied = largest(jnp.abs(error), count.astype(jnp.int32))
    state = SparseFedState(
        error=jnp.where(applied, 0.0, error),
        momentum=jnp.where(applied, 0.0, velocity),
    )
    return state, jnp.where(applied, error, 0.0)


ENTRY = Entry(
    sparsefed,
    paper="Panda et al., AISTATS 2022",
    weighs=True,
)
