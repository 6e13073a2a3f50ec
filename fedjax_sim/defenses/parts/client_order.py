"""A rule sees its cohort in the order of the client ids, whatever order it came in.

Sums of floats depend on their order, and so would every choice between clients whose
scores are equal up to rounding. In a run the cohort is in that order already: the loops
below then do nothing, and the updates are neither copied nor read.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.contracts.defense import Aggregate, Cohort, RoundContext
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.numerics.rows import take_rows

PyTree = Any
Aggregation = Callable[[PyTree, Cohort, RoundContext], tuple[PyTree, Cohort, Aggregate]]
Afterwards = Callable[
    [PyTree, GlobalModel, Cohort, RoundContext], tuple[PyTree, GlobalModel]
]


def in_client_order(aggregate: Aggregation) -> Aggregation:
    """Returns the `Defense.aggregate` that shows `aggregate` ascending ids.

    The judged cohort is in the caller's order again.
    """

    def ordered(state, cohort, context):
        places = _places(cohort.client_ids)
        state, cohort, result = aggregate(state, *_in_order(cohort, context, places))
        # The updates may be written in place only when all that reads them is done, and
        # the compiler sees that in nothing but a number that comes of it: 0 here.
        done = jnp.minimum(jnp.isnan(result.update.ravel()[0]).astype(places.dtype), 0)
        return state, _taken(cohort, places + done), result

    return ordered


def after_in_client_order(after: Afterwards) -> Afterwards:
    """Returns the `Defense.after` that shows `after` ascending ids."""

    def ordered(state, model, cohort, context):
        places = _places(cohort.client_ids)
        return after(state, model, *_in_order(cohort, context, places))

    return ordered


def _places(ids: Array) -> Array:
    """The place i32 [n] of each id among the ascending ones.

    By comparisons: the compiler needs longer for a sort than for all of this.
    """
    return (ids[:, None] > ids[None, :]).sum(1)


def _in_order(
    cohort: Cohort, context: RoundContext, places: Array
) -> tuple[Cohort, RoundContext]:
    n = jnp.arange(len(places))
    order = jnp.where(places[None, :] == n[:, None], n[None, :], 0).sum(1)
    # None, where a rule is called by hand: then nobody asks who attacks.
    malicious = jax.tree.map(lambda x: x[order], context.malicious)
    return _taken(cohort, order), context._replace(malicious=malicious)


def _taken(cohort: Cohort, order: Array) -> Cohort:
    """Takes the clients of `order` (i32 [n]); updates are written only if need be."""
    disordered = (order != jnp.arange(len(order))).any()
    with jax.named_scope("times_0"):  # in a run; see `experiment.arithmetic.length_of`
        updates, buffers = lax.fori_loop(
            0,
            disordered.astype(jnp.int32),
            lambda _, rows: jax.tree.map(lambda x: take_rows(x, order), rows),
            (cohort.updates, cohort.buffers),
        )
    weights, ids, examples, scores = jax.tree.map(lambda x: x[order], cohort[2:])
    return Cohort(updates, buffers, weights, ids, examples, scores)
