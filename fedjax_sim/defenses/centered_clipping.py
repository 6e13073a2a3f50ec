"""Centred clipping: the mean of updates clipped around the last aggregate.

Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization", ICML
2021, Algorithm 2. There clients send momenta; the memory is the same for updates.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

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
from fedjax_sim.core.options import Count, Sizable, Traced, checked
from fedjax_sim.defenses.parts.clipping import clip_factors, times
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics.distances import finite, row_lengths


@checked("defense")
def centered_clipping(*, tau: Traced[Sizable] = 10.0, iterations: Count = 1) -> Defense:
    """Returns v + mean of the differences u - v, each shortened to tau.

    v is the last aggregate, 0 before the first round; a round without survivors keeps
    it. With tau above all distances this is the mean. Running statistics are averaged.

    Args:
      tau: longest difference that counts in full, a length.
      iterations: L, how often v moves so in a round (3 in the code of Karimireddy, He,
        Jaggi, ICLR 2022, with tau = 10 / (1 - client momentum)).

    Raises:
      InputError: an option outside its range.
    """

    def init(spec: FederationSpec) -> Array:
        return jnp.zeros(spec.layout.size)

    def aggregate(last, cohort, context):
        around = pipeline(reduce=clipped_mean(lambda: last, tau, iterations))
        inner = ((), ())
        _, cohort, result = around.aggregate(inner, cohort, context)
        survived = included(cohort).any()
        return jnp.where(survived, result.update, last), cohort, result

    def unchanged(state, model, cohort, context):
        del cohort, context
        return state, model

    return Defense(init, aggregate, unchanged)


def clipped_mean(
    start: Callable[[], Array], tau: Array | float, iterations: int
) -> Reduce:
    """The reduction by `iterations` steps from the point `start()` f32 [d]."""

    def reduce(cohort: Cohort, context: RoundContext) -> Aggregate:
        del context
        mask = included(cohort)
        shares = mask / jnp.maximum(mask.sum(), 1)

        def step(i: Array, v: Array) -> Array:
            del i
            # Half: the difference of two numbers of float32 may exceed it.
            halves = 0.5 * cohort.updates - 0.5 * v[None]
            clipped = times(clip_factors(row_lengths(halves), 0.5 * tau), halves)
            return finite(2.0 * (0.5 * v + shares @ clipped))

        update = lax.fori_loop(0, iterations, step, start())
        return Aggregate(update, finite(shares @ cohort.buffers))

    return reduce


ENTRY = Entry(
    centered_clipping,
    paper="Karimireddy et al., ICML 2021",
)
