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
from fedjax_sim.numerics.common_part import span_distances
from fedjax_sim.numerics.distances import Lengths, finite, row_lengths
from fedjax_sim.numerics.gram import scaled_gram

# A shorter difference, clipped, still has a coefficient that float32 holds.
_LONG = 2.0**60


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
    """The reduction by `iterations` steps from the point `start()` f32 [d].

    All points are the start plus a sum of the differences to it, whose coefficients
    follow from lengths and products of the differences: one pass, and one for the sum.
    Where these are not exact enough, every step passes over the updates.
    """

    def reduce(cohort: Cohort, context: RoundContext) -> Aggregate:
        del context
        mask = included(cohort)
        shares = mask / jnp.maximum(mask.sum(), 1)
        updates, first = cohort.updates, start()
        if iterations == 1:
            found, exact = _first_coefficients(updates, first, shares, tau)
        else:
            found, exact = _coefficients(updates, first, mask, shares, tau, iterations)

        def at_once() -> Array:
            return finite((1.0 - found.sum()) * first + found @ updates)

        def by_passes() -> Array:
            def step(i: Array, v: Array) -> Array:
                del i
                # Half: the difference of two numbers of float32 may exceed it.
                halves = 0.5 * updates - 0.5 * v[None]
                clipped = times(clip_factors(row_lengths(halves), 0.5 * tau), halves)
                return finite(2.0 * (0.5 * v + shares @ clipped))

            return lax.fori_loop(0, iterations, step, first)

        update = lax.cond(exact, at_once, by_passes)
        return Aggregate(update, finite(shares @ cohort.buffers))

    return reduce


def _first_coefficients(
    updates: Array, start: Array, shares: Array, tau: Array | float
) -> tuple[Array, Array]:
    """The coefficients f32 [n] after one step, and whether float32 holds them."""
    lengths = row_lengths(updates, start)
    factors = clip_factors(lengths, 0.5 * tau).value
    return shares * factors, (lengths.units <= _LONG).all()


def _coefficients(
    updates: Array,
    start: Array,
    mask: Array,
    shares: Array,
    tau: Array | float,
    iterations: int,
) -> tuple[Array, Array]:
    """Those after several steps; `mask` and `shares` f32 [n] are of the clients."""
    products, units = scaled_gram(updates, start)
    half_distances = span_distances(products, mask, 1.0)
    ones = jnp.ones_like(shares)

    def step(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        del i
        own, exact = carry
        halves, right = half_distances(own)
        moved = shares * clip_factors(Lengths(halves, ones), 0.5 * tau).value
        return (1.0 - moved.sum()) * own + moved, exact & right

    begin = jnp.zeros_like(shares), (units == 1).all()
    return lax.fori_loop(0, iterations, step, begin)


ENTRY = Entry(
    centered_clipping,
    paper="Karimireddy et al., ICML 2021",
)
