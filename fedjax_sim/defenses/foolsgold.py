"""FoolsGold: clients that keep pulling in one direction lose their weight.

Fung, Yoon, Beschastnikh, "The Limitations of Federated Learning in Sybil Settings",
RAID 2020, Algorithm 1. The variant `authors` is what the released code of DROP
computes under that name (Syros et al. 2025, arXiv 2502.07011).
"""

from typing import Literal

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    RoundContext,
    Stage,
    included,
    with_score,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.compiled import compiled
from fedjax_sim.core.options import checked
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics.cosines import cosine_distances
from fedjax_sim.numerics.distances import finite

Variant = Literal["paper", "authors"]


@checked("defense")
def foolsgold(*, variant: Variant = "paper") -> Defense:
    """Returns FoolsGold: the sum of v_i u_i / n, v by the similarity of histories.

    The server remembers the sum of the updates of every client of the population in
    the last linear layer. The weights v, score `foolsgold_weight` f32 [n] between 0
    and 1, are small for clients whose history is similar to another's. They are not
    normalised: n counts all participants.

    Args:
      variant: `paper` as above; `authors` applies only half of the sum.

    Raises:
      InputError: an option outside its range.
    """
    return pipeline(_similarity(1.0 if variant == "paper" else 0.5))


def _similarity(scale: float) -> Stage:
    def init(spec: FederationSpec) -> Array:
        head = spec.network.last_layer(jnp.zeros(spec.layout.size))
        return jnp.zeros((spec.population, len(head)))

    def apply(
        history: Array, cohort: Cohort, context: RoundContext
    ) -> tuple[Array, Cohort]:
        mask = included(cohort)
        ids = cohort.client_ids
        moved = jnp.where(mask[:, None], cohort.updates, 0.0)
        history = history.at[ids].add(context.network.last_layer(moved))
        history = finite(history)
        weights = foolsgold_weights(history[ids], mask)
        # The mean with the weights v, times this share, is the sum over n.
        share = scale * weights.sum() / jnp.maximum(mask.sum(), 1)
        kept = context.global_buffers[None]
        cohort = cohort._replace(
            updates=share * cohort.updates,
            buffers=kept + share * (cohort.buffers - kept),
            weights=weights,
        )
        return history, with_score(cohort, "foolsgold_weight", weights)

    return Stage(init, apply)


@compiled()
def foolsgold_weights(history: Array, mask: Array) -> Array:
    """Returns the weights f32 [n] between 0 and 1; 0 for excluded clients.

    Args:
      history: f32 [n, p], sums of past updates; a row of zeros resembles nobody.
      mask: bool [n], clients that count.
    """
    others = mask[:, None] & mask[None, :] & ~jnp.eye(len(mask), dtype=bool)
    cosines = 1.0 - cosine_distances(history, jnp.zeros(history.shape[1]))
    cosines = jnp.where(others, cosines, 0.0)
    # Pardoning: a client that resembles others less than they resemble each other.
    closest = cosines.max(1) + 1e-5
    ratio = closest[:, None] / closest[None, :]
    cosines = jnp.where(others & (ratio < 1.0), ratio * cosines, cosines)
    v = jnp.where(mask, jnp.clip(1.0 - cosines.max(1), 0.0, 1.0), 0.0)
    v = v / jnp.where(v.max() > 0, v.max(), 1.0)
    v = jnp.where(v == 1.0, 0.99, v)
    return jnp.clip(jnp.log(v / (1.0 - v) + 1e-5) + 0.5, 0.0, 1.0)


ENTRY = Entry(
    foolsgold,
    paper="Fung et al., RAID 2020",
)
