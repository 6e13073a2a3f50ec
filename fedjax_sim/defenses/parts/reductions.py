"""Reductions: how a cohort becomes one update."""

from collections.abc import Callable

from jax import Array

from fedjax_sim.contracts.defense import (
    Aggregate,
    Cohort,
    Reduce,
    RoundContext,
    included,
)
from fedjax_sim.numerics.distances import finite


def weighted_mean() -> Reduce:
    """The mean of updates and buffers with the cohort's weights (FedAvg)."""

    def reduce(cohort: Cohort, context: RoundContext) -> Aggregate:
        del context
        weights = cohort.weights / cohort.weights.sum()
        return Aggregate(
            finite(weights @ cohort.updates), finite(weights @ cohort.buffers)
        )

    return reduce


def coordinatewise(rule: Callable[[Array, Array], Array]) -> Reduce:
    """Applies `rule(rows f32 [n, k], included bool [n]) -> f32 [k]` to each part."""

    def reduce(cohort: Cohort, context: RoundContext) -> Aggregate:
        del context
        mask = included(cohort)
        return Aggregate(
            finite(rule(cohort.updates, mask)), finite(rule(cohort.buffers, mask))
        )

    return reduce
