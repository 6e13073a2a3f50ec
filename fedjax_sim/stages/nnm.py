"""NNM, nearest neighbour mixing: every update becomes the mean of those near to it.

Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan, "Fixing by Mixing: A Recipe for
Optimal Byzantine ML under Heterogeneity", AISTATS 2023, Algorithm 2 (m).
"""

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import Cohort, RoundContext, Stage, included
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.compiled import compiled
from fedjax_sim.core.errors import check_range
from fedjax_sim.core.options import Natural, Traced, checked
from fedjax_sim.defenses.parts.byzantine import byzantine_count
from fedjax_sim.defenses.parts.ranking import ranks
from fedjax_sim.numerics.columns import map_columns
from fedjax_sim.numerics.common_part import close_distances, without_noise
from fedjax_sim.numerics.distances import finite


@checked("defense")
def nnm(*, num_byzantine: Traced[Natural] | None = None) -> Stage:
    """Returns the stage that replaces updates by means of their n - f nearest.

    n are the clients that count, a client is its own nearest, ties go to the smaller
    client id. Running statistics are mixed by the same neighbours. "(m)" above: the
    number in the paper is from memory.

    Args:
      num_byzantine: f; by default the malicious clients to expect in a cohort (an
        oracle: a real server has to guess it). 0 gives everybody the mean.

    Raises:
      InputError: an option outside its range; by `init`, as many as the cohort.
    """

    def init(spec: FederationSpec) -> Array:
        check_range(
            "defense", "nnm_num_byzantine", num_byzantine, 0, spec.cohort_size - 1
        )
        return jnp.asarray(byzantine_count(spec, num_byzantine))

    def apply(f: Array, cohort: Cohort, context: RoundContext) -> tuple[Array, Cohort]:
        del context
        mask = included(cohort)
        count = jnp.maximum(mask.sum() - f, 1)
        near = neighbours(cohort.updates, mask, cohort.client_ids, count)
        shares = near / count

        def mix(rows: Array) -> Array:
            # Who does not count keeps what it sent, which nobody reads.
            return jnp.where(mask[:, None], finite(shares @ rows), rows)

        mixed = cohort._replace(
            updates=map_columns(mix, cohort.updates), buffers=mix(cohort.buffers)
        )
        return f, mixed

    return Stage(init, apply)


@compiled()
def neighbours(
    updates: Array, mask: Array, client_ids: Array, count: int | Array
) -> Array:
    """Returns bool [n, n]: row i has the `count` clients nearest to client i.

    Args:
      updates: f32 [n, d].
      mask: bool [n], clients that count; the others have no neighbours and are none.
      client_ids: i32 [n].
      count: i32 [], at least 1.
    """
    distances = close_distances(updates, mask, jnp.argsort(client_ids))
    distances = jnp.where(jnp.eye(len(mask), dtype=bool), 0.0, distances)

    # Its own update is nearest, also beside an equal one of a smaller id.
    def nearest(i: Array, row: Array) -> Array:
        row = jnp.where(jnp.arange(len(mask)) == i, -1.0, row)
        return ranks(row, mask, client_ids) < count

    near = jax.vmap(nearest)(jnp.arange(len(mask)), without_noise(distances))
    return near & mask[None, :] & mask[:, None]


ENTRY = Entry(
    nnm,
    paper="Allouah et al., AISTATS 2023",
    oracle="the number of malicious clients, unless num_byzantine is given",
)
