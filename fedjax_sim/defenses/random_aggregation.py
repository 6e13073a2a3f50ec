"""Random aggregation: a mean with weights that nobody can predict.

A helper of the released code of DROP (Syros et al. 2025, arXiv 2502.07011).
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.defenses.base import (
    Cohort,
    Defense,
    RoundContext,
    included,
    pipeline,
)
from fedjax_sim.defenses.building import stateless
from fedjax_sim.defenses.checks import check_choice, check_range
from fedjax_sim.defenses.multikrum import ranks

Normalization = Literal["sum", "softmax"]


def random_aggregation(
    *, normalization: Normalization = "sum", num_selected: int | None = None
) -> Defense:
    """Returns the mean with weights drawn uniformly from [0, 1) in every round.

    Args:
      normalization: of the draws v: `sum` divides by their sum, `softmax` takes
        exp(v).
      num_selected: only the clients of the largest draws count; None takes all.

    Raises:
      InputError: for an unknown normalization or a num_selected below 1.
    """
    check_choice("normalization", normalization, Normalization)
    check_range("num_selected", num_selected, 1)

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(context.key, cohort.client_ids)
        draws = jax.vmap(jax.random.uniform)(keys)
        return with_random_weights(cohort, draws, normalization, num_selected)

    return pipeline(stateless(judge))


def with_random_weights(
    cohort: Cohort,
    draws: Array,
    normalization: Normalization,
    num_selected: int | None,
) -> Cohort:
    """Gives the clients that count weights in proportion to their draws f32 [n]."""
    mask = included(cohort)
    if num_selected is not None:
        mask &= ranks(-draws, mask, cohort.client_ids) < num_selected
    weights = jnp.exp(draws) if normalization == "softmax" else draws
    weights = jnp.where(mask, weights, 0.0)
    return cohort._replace(weights=weights / weights.sum())
