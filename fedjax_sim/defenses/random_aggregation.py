"""Random aggregation: a mean with weights that nobody can predict.

A helper of the released code of DROP (Syros et al. 2025, arXiv 2502.07011).
"""

from itertools import count, pairwise
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import (
    Aggregate,
    Cohort,
    Defense,
    RoundContext,
    Stage,
    included,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, checked
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.defenses.parts.ranking import ranks
from fedjax_sim.numerics.distances import finite
from fedjax_sim.numerics.flat import FlatLayout

Normalization = Literal["sum", "softmax"]


@checked("defense")
def random_aggregation(
    *,
    normalization: Normalization = "sum",
    num_selected: Count | None = None,
    per_layer: bool = False,
) -> Defense:
    """Returns the mean with weights drawn uniformly from [0, 1) in every round.

    Args:
      normalization: of the draws v: `sum` divides by their sum, `softmax` takes
        exp(v).
      num_selected: only the clients of the largest draws count; None takes all.
      per_layer: each tensor of parameters or running statistics has draws of its own;
        the report then shows no weights.

    Raises:
      InputError: an option outside its range; by `init`, more clients than a cohort
        has.
    """

    def init(spec: FederationSpec) -> tuple[()]:
        if num_selected is not None and num_selected > spec.cohort_size:
            raise InputError(
                f"config.defense.num_selected = {num_selected} must be at most "
                f"config.participation.clients_per_round = {spec.cohort_size}"
            )
        return ()

    def weighed(cohort: Cohort, key: Array) -> Cohort:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, cohort.client_ids)
        draws = jax.vmap(jax.random.uniform)(keys)
        return with_random_weights(cohort, draws, normalization, num_selected)

    def judge(
        state: tuple[()], cohort: Cohort, context: RoundContext
    ) -> tuple[tuple[()], Cohort]:
        return state, cohort if per_layer else weighed(cohort, context.key)

    def reduce_layers(cohort: Cohort, context: RoundContext) -> Aggregate:
        network, number = context.network, count()

        def mean(rows: Array, layout: FlatLayout) -> Array:
            parts = [rows[0, :0]]  # all there is where there are no statistics
            for start, stop in pairwise(layout.offsets):
                key = jax.random.fold_in(context.key, next(number))
                parts.append(finite(weighed(cohort, key).weights @ rows[:, start:stop]))
            return jnp.concatenate(parts)

        return Aggregate(
            mean(cohort.updates, network.layout),
            mean(cohort.buffers, network.buffer_layout),
        )

    return pipeline(Stage(init, judge), reduce=reduce_layers if per_layer else None)


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
    total = weights.sum()
    # Without anybody, or with draws of 0 alone, nobody counts.
    return cohort._replace(weights=weights / jnp.where(total > 0, total, 1.0))


ENTRY = Entry(
    random_aggregation,
    paper="released code of Syros et al. 2025 (DROP)",
)
