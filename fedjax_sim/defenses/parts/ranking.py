"""Clients in the order of a score."""

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import Cohort, exclude, included
from fedjax_sim.core.compiled import compiled


def keep_lowest(cohort: Cohort, scores: Array, count: int | Array) -> Cohort:
    """Keeps the `count` included clients of the lowest scores f32 [n]; see `ranks`."""
    mask = included(cohort)
    return exclude(cohort, ranks(scores, mask, cohort.client_ids) >= count)


@compiled()
def ranks(scores: Array, mask: Array, client_ids: Array) -> Array:
    """Returns the places i32 [n] of the clients by score, from 0.

    Ties go to the smaller client id; clients that do not count come last.

    Args:
      scores: f32 [n].
      mask: bool [n], clients that count.
      client_ids: i32 [n].
    """
    order = jnp.lexsort((client_ids, scores, ~mask))
    return jnp.zeros_like(order).at[order].set(jnp.arange(len(order)))
