"""The majority component: the filter of FLAME, without a clustering library.

Nguyen et al., "FLAME: Taming Backdoors in Federated Learning", USENIX Security 2022,
section 4.3 ("dynamic model filtering"). HDBSCAN with clusters of more than half of
the points and min_samples = 1 has a closed form, because two such clusters cannot
exist side by side: raise a threshold on the distances from 0, and the first connected
component that holds more than half of the clients is admitted.
"""

from typing import Literal

import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.contracts.defense import Cohort, RoundContext, Stage, exclude, included
from fedjax_sim.core.compiled import compiled
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.numerics.cosines import cosine_distances

Features = Literal["models", "updates"]


def majority_component(
    *, features: Features = "models", compare_rows: bool = False
) -> Stage:
    """Returns the stage that keeps the first component with more than half of all.

    Args:
      features: what the cosine distances are taken between.
      compare_rows: clients are as far apart as their rows of the matrix of cosine
        distances (Euclidean), not as the cosine distance of the two.
    """

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        origin = context.global_params
        origin = origin if features == "models" else jnp.zeros_like(origin)
        distances = cosine_distances(cohort.updates, origin)
        mask = included(cohort)
        if compare_rows:
            distances = _between_rows(distances, mask)
        return exclude(cohort, ~majority_members(distances, mask))

    return stateless(judge)


@compiled()
def majority_members(distances: Array, mask: Array) -> Array:
    """Returns bool [n]: the first component with at least floor(n/2) + 1 clients.

    All clients are members of it where they are at distance 0 of one another.

    Args:
      distances: f32 [n, n], symmetric, 0 on the diagonal.
      mask: bool [n], clients that count.
    """
    n = len(mask)
    both = mask[:, None] & mask[None, :]

    def relax(k: Array, reach: Array) -> Array:
        return jnp.minimum(reach, jnp.maximum(reach[:, k, None], reach[None, k]))

    # The smallest threshold that connects each pair (Floyd and Warshall).
    reach = lax.fori_loop(0, n, relax, jnp.where(both, distances, jnp.inf))
    # The threshold at which the component of a client holds the majority.
    majority = jnp.sort(reach, axis=1)[:, mask.sum() // 2]
    majority = jnp.where(mask, majority, jnp.inf)
    return mask & (majority == majority.min())


def _between_rows(distances: Array, mask: Array) -> Array:
    """Returns the Euclidean distances f32 [n, n] between rows of `distances`."""
    rows = jnp.where(mask[None], distances, 0.0)

    # One difference after the other: a column of 1, the distances to an outlier,
    # would drown the other columns in an inner product.
    def to_all(row: Array) -> Array:
        return jnp.linalg.norm(rows - row[None], axis=1)

    # Rounding errors must not decide between identical clients.
    return jnp.where(rows == 0.0, 0.0, lax.map(to_all, rows))
