"""IQR filter: no update far from all others, by the rule of quartiles.

From a short article on backdoors in federated CIFAR-10; how the distances become one
number per client, and k = 1.5, are our reading of it. Tukey, "Exploratory Data
Analysis", 1977, for the rule.
"""

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    RoundContext,
    exclude,
    included,
    with_score,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import NonNegative, Traced, checked
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics import order_statistics
from fedjax_sim.numerics.common_part import close_pairs
from fedjax_sim.numerics.distances import distances_in, finite


@checked("defense")
def iqr_filter(*, iqr_k: Traced[NonNegative] = 1.5) -> Defense:
    """Returns the mean without the clients that are too far from the others.

    The score `mean_distance` f32 [n] is a client's mean Euclidean distance to the
    others; above Q3 + iqr_k (Q3 - Q1) it is excluded. Fewer than four clients are not
    judged.

    Args:
      iqr_k: how far above the third quartile a distance stands out, in lengths of the
        range between the quartiles; 0.3 is the article's "high sensitivity".

    Raises:
      InputError: an option outside its range.
    """

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        del context
        mask = included(cohort)
        distances, unit = mean_distances(cohort.updates, mask)
        cohort = with_score(cohort, "mean_distance", finite(unit * distances))
        return exclude(cohort, (mask.sum() >= 4) & above_fence(distances, mask, iqr_k))

    return pipeline(stateless(judge))


def mean_distances(updates: Array, mask: Array) -> tuple[Array, Array]:
    """Returns the mean distances f32 [n] to the other included rows, and their unit.

    The unit (f32 []) is a power of two, in which no distance leaves float32.

    Args:
      updates: f32 [n, d].
      mask: bool [n], rows that count.
    """
    found = close_pairs(updates, mask, jnp.arange(len(mask)))
    unit = jnp.where(mask, jnp.diagonal(found.units), 0.0).max()
    unit = jnp.where(unit > 0, unit, 1.0)
    distances = jnp.where(mask[None], distances_in(found, unit), 0.0)
    # Sorted: the sum must not depend on the order of the clients, not even in its last
    # bit, which decides where all are equally far.
    return jnp.sort(distances, axis=1).sum(1) / jnp.maximum(mask.sum() - 1, 1), unit


def above_fence(values: Array, mask: Array, iqr_k: float | Array) -> Array:
    """Returns bool [n]: included and above Q3 + iqr_k (Q3 - Q1) of the included."""
    low, high = (order_statistics.quantile(values, mask, q) for q in (0.25, 0.75))
    return mask & (values > high + iqr_k * (high - low))


ENTRY = Entry(
    iqr_filter,
    paper="article on backdoors in federated CIFAR-10",
    weighs=True,
)
