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
        order = jnp.argsort(cohort.client_ids)
        state, cohort, result = aggregate(state, *_moved(cohort, context, order))
        # The updates may be written in place only when all that reads them is done, and
        # the compiler sees that in nothing but a number that comes of it: 0 here.
        done = jnp.minimum(jnp.isnan(result.update[0]).astype(order.dtype), 0)
        return state, _taken(cohort, jnp.argsort(order) + done), result

    return ordered


def after_in_client_order(after: Afterwards) -> Afterwards:
    """Returns the `Defense.after` that shows `after` ascending ids."""

    def ordered(state, model, cohort, context):
        order = jnp.argsort(cohort.client_ids)
        return after(state, model, *_moved(cohort, context, order))

    return ordered


def _moved(
    cohort: Cohort, context: RoundContext, order: Array
) -> tuple[Cohort, RoundContext]:
    # None, where a rule is called by hand: then nobody asks who attacks.
    malicious = jax.tree.map(lambda x: x[order], context.malicious)
    return _taken(cohort, order), context._replace(malicious=malicious)


def _taken(cohort: Cohort, order: Array) -> Cohort:
    """Takes the clients of `order` (i32 [n]); updates are written only if need be.

    Their rows are swapped in place, as a gather would copy all of them even if it never
    ran.
    """
    n = len(order)

    def swap(i: Array, carry: tuple) -> tuple:
        rows, held = carry  # held i32 [n]: whose row is where
        j = jnp.argmax(held == order[i])
        both = jnp.stack([i, j])
        rows = jax.tree.map(lambda x: x.at[both].set(x[both[::-1]]), rows)
        return rows, held.at[both].set(held[both[::-1]])

    places = jnp.arange(n)
    disordered = (order != places).any()
    (updates, buffers), _ = lax.fori_loop(
        0,
        jnp.where(disordered, n, 0),
        swap,
        ((cohort.updates, cohort.buffers), places),
    )
    weights, ids, examples, scores = jax.tree.map(lambda x: x[order], cohort[2:])
    return Cohort(updates, buffers, weights, ids, examples, scores)
