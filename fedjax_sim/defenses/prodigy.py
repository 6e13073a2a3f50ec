"""ProDiGy: clients close to the others count, unless they are too similar.

Ergisi, Massny, Bitar, "ProDiGy: Proximity- and Dissimilarity-Based Byzantine-Robust
Federated Learning", 2025 (arXiv 2509.09534); formulas as in its released code.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    RoundContext,
    included,
    with_score,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.compiled import compiled
from fedjax_sim.core.errors import check_range
from fedjax_sim.core.options import Natural, Traced, checked
from fedjax_sim.defenses.parts.building import stateless, with_count
from fedjax_sim.defenses.parts.byzantine import check_quorum
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.defenses.parts.ranking import ranks
from fedjax_sim.numerics.common_part import close_pairs
from fedjax_sim.numerics.distances import finite, middle_unit, squares_in
from fedjax_sim.numerics.gram import scaled_gram

# Squared length, in those of a usual update, from which on a client is not compared:
# sums of so many such squares as there are pairs stay in float32.
_BEYOND = 2.0**100


class ProdigyScores(NamedTuple):
    """What the weights are made of; rows of clients that do not count mean nothing."""

    dissimilarity: Array  # f32 [n], a
    proximity: Array  # f32 [n], b
    score: Array  # f32 [n], a / b


@checked("defense")
def prodigy(*, num_byzantine: Traced[Natural] | None = None) -> Defense:
    """Returns ProDiGy: the mean with weights a_i / b_i, the f smallest set to 0.

    a_i is the spread of a client and its f - 1 nearest others, relative to their mean;
    b_i the sum of the squared distances to the others of ranks f - 1 to n - f - 2.
    Score: `prodigy_score` f32 [n]. With f = 0, or where all scores are 0, it is the
    plain mean.

    Args:
      num_byzantine: f; by default the malicious clients to expect in a cohort, rounded
        down as in the code (an oracle: a real server has to guess it). Scores take at
        least 2, as a spread needs two clients.

    Raises:
      InputError: an option outside its range; by `init`, a cohort of fewer than 2f + 1
        clients.
    """

    def resolve(spec: FederationSpec) -> int:
        check_range("defense", "num_byzantine", num_byzantine, 0, spec.cohort_size)
        expected = spec.cohort_size * spec.num_malicious // spec.population
        f = expected if num_byzantine is None else num_byzantine
        check_quorum(spec, f, 2, 1)
        return f

    def rule(f: Array) -> Defense:
        def judge(cohort: Cohort, context: RoundContext) -> Cohort:
            del context
            return with_trust(cohort, f)

        return pipeline(stateless(judge))

    return with_count(resolve, rule)


def with_trust(cohort: Cohort, num_byzantine: int | Array) -> Cohort:
    """Gives the clients that count their ProDiGy weights."""
    products, units = scaled_gram(cohort.updates)
    mask = included(cohort)
    found = close_pairs(cohort.updates, mask, jnp.argsort(cohort.client_ids))
    unit = middle_unit(found, mask)
    distances = squares_in(found, unit)
    ratio = units / unit
    products = products * ratio[:, None] * ratio[None, :]
    # An update beyond comparison is further away than all others.
    mask &= jnp.diagonal(products) < _BEYOND
    f = jnp.minimum(num_byzantine, jnp.maximum((mask.sum() - 1) // 2, 0))
    score = prodigy_scores(cohort, distances, products, mask, f).score
    score = jnp.where(mask, score, 0.0)
    dropped = ranks(score, mask, cohort.client_ids) < f
    weights = jnp.where(dropped, 0.0, score)
    weights = weights / jnp.where(weights.max() > 0, weights.max(), 1.0)
    plain = (f == 0) | ~(weights > 0).any()
    weights = jnp.where(plain, jnp.where(mask, cohort.weights, 0.0), weights)
    # The scores, too, are in units: distances stand below their fraction line.
    absolute = finite(score / unit / unit)
    return with_score(cohort._replace(weights=weights), "prodigy_score", absolute)


@compiled()
def prodigy_scores(
    cohort: Cohort,
    distances: Array,
    products: Array,
    mask: Array,
    num_byzantine: Array,
) -> ProdigyScores:
    """Returns the scores of the clients of `mask`.

    Args:
      cohort: of n clients.
      distances: f32 [n, n], squared distances of the updates.
      products: f32 [n, n], their inner products, in the same units.
      mask: bool [n], clients that count.
      num_byzantine: i32 [], f.
    """
    n = len(mask)
    both = mask[:, None] & mask[None, :]
    distances = jnp.where(both, distances, 0.0)
    products = jnp.where(both, products, 0.0)
    others = both & ~jnp.eye(n, dtype=bool)
    # Places of the others in the order of their distance; ties go by client id.
    ids = jnp.broadcast_to(cohort.client_ids[None], (n, n))
    order = jnp.lexsort((ids, distances, ~others), axis=1)
    rows = jnp.arange(n)[:, None]
    place = jnp.zeros((n, n), jnp.int32).at[rows, order].set(jnp.arange(n)[None])

    size = jnp.maximum(num_byzantine, 2)
    group = (others & (place < size - 1)) | jnp.eye(n, dtype=bool)
    spread, mean = (_sum_within(group, x) for x in (distances, products))
    dissimilarity = jnp.sqrt(spread / jnp.where(mean > 0, 2.0 * mean, jnp.inf))
    stop = jnp.maximum(mask.sum() - size - 1, size)
    middle = others & (place >= size - 1) & (place < stop)
    proximity = jnp.where(middle, distances, 0.0).sum(1)
    near = proximity > 0
    score = jnp.where(near, dissimilarity / jnp.where(near, proximity, 1.0), 0.0)
    return ProdigyScores(dissimilarity, proximity, score)


def _sum_within(group: Array, matrix: Array) -> Array:
    """Returns the sums f32 [n] of `matrix` over the pairs inside each row's group."""
    members = group.astype(jnp.float32)
    sums = jnp.matmul(members, matrix, precision=lax.Precision.HIGHEST)
    return (sums * members).sum(1)


ENTRY = Entry(
    prodigy,
    paper="Ergisi et al. 2025, arXiv 2509.09534",
    oracle="the number of malicious clients, unless num_byzantine is given",
    weighs=True,
)
