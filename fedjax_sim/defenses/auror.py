"""Auror: clients that are in the smaller of two clusters of most indicative parameters.

Shen, Tople, Saxena, "Auror: Defending Against Poisoning Attacks in Collaborative Deep
Learning Systems", ACSAC 2016, section 4 (m).
"""

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    RoundContext,
    Stage,
    exclude,
    included,
    with_score,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.options import Count, NonNegative, Traced, checked
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics.two_means import TwoMeans, two_means


@checked("defense")
def auror(
    *, threshold: Traced[NonNegative] = 0.002, search_rounds: Count = 10
) -> Defense:
    """Returns the mean without who is in the minority of most indicative parameters.

    A parameter of the last layer is indicative if the means of the best two clusters of
    its values lie at least `threshold` apart. Excluded is who is in the smaller cluster
    (of two of equal size there is none) of more than half of the indicative ones; where
    there are none, nobody is. Score: `minority_votes` i32 [n]. "(m)" above: the number
    in the paper is from memory.

    Args:
      threshold: a length (0.002 in FLPoison; suggested: 1e-4 for MNIST and 7e-4 for
        CIFAR-10).
      search_rounds: rounds in which the indicative parameters are found anew; later
        they stay.

    Raises:
      InputError: an option outside its range.
    """

    def init(spec: FederationSpec) -> Array:
        head = spec.network.last_layer(jnp.zeros(spec.layout.size))
        return jnp.zeros(len(head), bool)

    def apply(
        indicative: Array, cohort: Cohort, context: RoundContext
    ) -> tuple[Array, Cohort]:
        mask = included(cohort)
        found = two_means(context.network.last_layer(cohort.updates), mask)
        searching = (context.round <= search_rounds) & mask.any()
        indicative = jnp.where(searching, found.gap >= threshold, indicative)
        votes = minority_votes(found, mask, indicative)
        cohort = with_score(cohort, "minority_votes", votes)
        return indicative, exclude(cohort, 2 * votes > indicative.sum())

    return pipeline(Stage(init, apply))


def minority_votes(found: TwoMeans, mask: Array, indicative: Array) -> Array:
    """Returns i32 [n]: in how many indicative parameters a client is in the minority.

    Args:
      found: clusters of the clients that count.
      mask: bool [n], those.
      indicative: bool [k].
    """
    lower, m = found.lower, mask.sum()
    upper = mask[:, None] & ~lower
    few = lambda side: side & (2 * side.sum(0) < m)[None]
    minority = (few(lower) | few(upper)) & (found.gap > 0)[None]
    return (minority & indicative[None]).sum(1)


ENTRY = Entry(
    auror,
    paper="Shen, Tople, Saxena, ACSAC 2016",
    weighs=True,
)
