"""SMEA, smallest maximum eigenvalue averaging.

Allouah, Guerraoui, Gupta, Pinot, Stephan, "On the Privacy-Robustness-Utility Trilemma
in Distributed Learning", ICML 2023, Algorithm 2 (m).
"""

import jax.numpy as jnp
from jax import Array, lax

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
from fedjax_sim.core.options import Natural, checked
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.defenses.parts.subsets import candidates, first_best, subsets_of
from fedjax_sim.numerics.common_part import close_products
from fedjax_sim.numerics.distances import finite

# Subsets whose matrices are decomposed at once.
_TOGETHER = 64


@checked("defense")
def smea(*, num_byzantine: Natural | None = None) -> Defense:
    """Returns the mean of the n - f clients whose covariance has the least top value.

    That is the largest eigenvalue of the covariance of their updates, exact (byzfl
    0.0.11 takes one random power step, and another set with nearly every seed). Of
    equal sets the first in lexicographic order of the client ids. n are the clients
    that count; all sets are looked at, so this is for small cohorts. Score:
    `largest_eigenvalue` f32 [n], of the chosen set, the same for all. "(m)" above: the
    number in the paper is from memory.

    Args:
      num_byzantine: f; by default the malicious clients to expect in a cohort (an
        oracle: a real server has to guess it).

    Raises:
      InputError: an option outside its range; by `init`, 2f clients or fewer, or more
        than 20 000 sets.
    """

    def init(spec: FederationSpec) -> Array:
        return jnp.asarray(subsets_of(spec, num_byzantine))

    def apply(out: Array, cohort: Cohort, context: RoundContext) -> tuple:
        del context
        order, mask = jnp.argsort(cohort.client_ids), included(cohort)
        products, unit = close_products(cohort.updates, mask, order)
        products = products[order][:, order]
        kept, possible = candidates(out, mask[order])
        values = lax.map(
            lambda subset: largest_eigenvalue(products, subset),
            kept,
            batch_size=min(_TOGETHER, len(out)),
        )
        best = first_best(values, possible)
        chosen = jnp.zeros_like(mask).at[order].set(kept[best])
        # Four times: the products are those of halves.
        value = finite(finite(4.0 * finite(values[best]) * unit) * unit)
        cohort = with_score(cohort, "largest_eigenvalue", jnp.full(len(order), value))
        return out, exclude(cohort, ~chosen)

    return pipeline(Stage(init, apply))


def largest_eigenvalue(products: Array, subset: Array) -> Array:
    """Returns f32 [], of the covariance of the rows of a subset (divided by its size).

    Args:
      products: f32 [n, n], inner products of the rows.
      subset: bool [n]; inf if a product in it is none of float32.
    """
    both = subset[:, None] & subset[None, :]
    inside = jnp.where(both, products, 0.0)
    ordinary = jnp.isfinite(inside).all()
    inside = jnp.where(ordinary, inside, 0.0)
    size = jnp.maximum(subset.sum(), 1)
    means = inside.sum(1) / size
    centred = inside - means[:, None] - means[None, :] + means.sum() / size
    centred = jnp.where(both, centred, 0.0) / size
    value = jnp.maximum(jnp.linalg.eigvalsh(centred)[-1], 0.0)
    return jnp.where(ordinary & jnp.isfinite(value), value, jnp.inf)


ENTRY = Entry(
    smea,
    paper="Allouah et al., ICML 2023",
    oracle="the number of malicious clients, unless num_byzantine is given",
    weighs=True,
)
