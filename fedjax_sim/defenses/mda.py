"""MDA, minimum-diameter averaging: the mean of the tightest n - f updates.

El Mhamdi, Guerraoui, Rouault, "The Hidden Vulnerability of Distributed Learning in
Byzantium", ICML 2018 ("Brute", (m)), after Rousseeuw, "Multivariate estimation with
high breakdown point", 1985.
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
from fedjax_sim.numerics.common_part import close_pairs
from fedjax_sim.numerics.distances import distances_in, finite, middle_unit


@checked("defense")
def mda(*, num_byzantine: Natural | None = None) -> Defense:
    """Returns the mean of the n - f clients whose largest distance is the least.

    Of several such sets the first in lexicographic order of the client ids. n are the
    clients that count; all sets are looked at, so this is for small cohorts. Score:
    `diameter` f32 [n], of the chosen set, the same for all. "(m)" above: the name in
    the paper is from memory.

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
        found = close_pairs(cohort.updates, mask, order)
        unit = middle_unit(found, mask)
        distances = distances_in(found, unit)[order][:, order]
        kept, possible = candidates(out, mask[order])

        def widen(i: Array, diameters: Array) -> Array:
            row = jnp.where(kept & kept[:, i, None], distances[i][None], 0.0)
            return jnp.maximum(diameters, row.max(1))

        diameters = lax.fori_loop(0, len(order), widen, jnp.zeros(len(out)))
        best = first_best(diameters, possible)
        chosen = jnp.zeros_like(mask).at[order].set(kept[best])
        diameter = finite(finite(diameters[best]) * unit)
        cohort = with_score(cohort, "diameter", jnp.full(len(order), diameter))
        return out, exclude(cohort, ~chosen)

    return pipeline(Stage(init, apply))


ENTRY = Entry(
    mda,
    paper="El Mhamdi et al., ICML 2018",
    oracle="the number of malicious clients, unless num_byzantine is given",
    weighs=True,
)
