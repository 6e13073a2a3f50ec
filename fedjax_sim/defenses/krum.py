"""Krum.

Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries:
Byzantine Tolerant Gradient Descent", NeurIPS 2017, section 4. The variant `authors`
is what the released code of FedREDefense computes under that name (Xie, Fang, Gong,
ICML 2024).
"""

from typing import Literal

import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    RoundContext,
    exclude,
    included,
    with_score,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.errors import check_range
from fedjax_sim.core.options import Count, Natural, Traced, checked
from fedjax_sim.defenses.parts.building import stateless, with_count
from fedjax_sim.defenses.parts.byzantine import (
    byzantine_count,
    check_quorum,
    count_of_authors,
)
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.defenses.parts.ranking import keep_lowest, ranks
from fedjax_sim.numerics.common_part import close_pairs
from fedjax_sim.numerics.distances import finite, middle_unit, pairs, squares_in

Variant = Literal["paper", "authors"]


@checked("defense")
def krum(
    *,
    variant: Variant = "paper",
    num_byzantine: Traced[Natural] | None = None,
    num_neighbors: Traced[Count] | None = None,
    whole_state: bool = False,
) -> Defense:
    """Returns Krum: the one client that is nearest to its k nearest others.

    With n the clients that still count, k = n - f - 2. Score: `krum_score` f32 [n],
    +inf for excluded clients.

    Args:
      variant: `paper` takes squared Euclidean distances; `authors` Euclidean ones, and
        one Byzantine client more than it is told.
      num_byzantine: f; by default the malicious clients to expect in a cohort (an
        oracle: a real server has to guess it).
      num_neighbors: k, nearest others that count for a score, in place of n - f - 2.
        (The code of LeadFL, Zhu, Roos, Chen, ICML 2023, takes 5 of 10 clients.)
      whole_state: distances over the running statistics of BatchNorm too, as that code
        has it.

    Raises:
      InputError: an option outside its range; by `init`, numbers that the cohort cannot
        meet, among them the paper's condition 2f + 2 < n wherever f is used.
    """

    def resolve(spec: FederationSpec) -> int:
        n = spec.cohort_size
        check_range("defense", "num_byzantine", num_byzantine, 0, n)
        check_range("defense", "num_neighbors", num_neighbors, 1, n - 1)
        if variant == "authors":
            return count_of_authors(spec, num_byzantine)
        f = byzantine_count(spec, num_byzantine)
        if num_neighbors is None:
            check_quorum(spec, f, 2, 3)
        return f

    def rule(f: Array) -> Defense:
        def judge(cohort: Cohort, context: RoundContext) -> Cohort:
            n = included(cohort).sum()
            cohort, scores = with_krum_score(
                cohort,
                context,
                num_neighbors=n - f - 2 if num_neighbors is None else num_neighbors,
                squared=variant == "paper",
                whole_state=whole_state,
            )
            return keep_lowest(cohort, scores, 1)

        return pipeline(stateless(judge))

    return with_count(resolve, rule)


def with_krum_score(
    cohort: Cohort,
    context: RoundContext,
    *,
    num_neighbors: int | Array,
    squared: bool = True,
    whole_state: bool = False,
) -> tuple[Cohort, Array]:
    """Adds the score `krum_score` f32 [n], from plain or squared distances.

    Also returns the scores to rank by: the same in units of a usual update, in which
    those of similar clients neither over- nor underflow.

    They are those of the parameters, with `whole_state` of the buffers too: of their
    changes, since float32 cannot tell large values apart.
    """
    mask = included(cohort)
    found = close_pairs(cohort.updates, mask, jnp.argsort(cohort.client_ids))
    unit = middle_unit(found, mask)
    distances = squares_in(found, unit)
    if whole_state:
        changes = cohort.buffers - context.global_buffers[None]
        distances = distances + squares_in(pairs(changes), unit)
    distances = distances if squared else jnp.sqrt(distances)
    scores = krum_scores(distances, mask, num_neighbors)
    # What float32 does not hold is reported as its largest number.
    absolute = finite(scores * unit * (unit if squared else 1.0))
    absolute = jnp.where(mask, absolute, jnp.inf)
    return with_score(cohort, "krum_score", absolute), scores


def iterated_krum(
    cohort: Cohort, num_byzantine: Array, remaining: Array, with_itself: bool = False
) -> Cohort:
    """Lets Krum select clients in turn, each among those that are left.

    Adds the score `place` i32 [n]: in which turn, from 0; n if never.

    Args:
      cohort: of n clients.
      num_byzantine: i32 [], f; of r clients left r - f - 2 distances are summed.
      remaining: i32 [], clients to leave; at least one is selected.
      with_itself: one of the distances is that of a client to itself.
    """
    mask = included(cohort)
    found = close_pairs(cohort.updates, mask, jnp.argsort(cohort.client_ids))
    distances = squares_in(found, middle_unit(found, mask))
    n = len(mask)
    count = jnp.maximum(mask.sum() - remaining, 1)

    def select(i: Array, place: Array) -> Array:
        left = mask & (place == n)
        neighbors = jnp.maximum(left.sum() - num_byzantine - 2, 1) - with_itself
        scores = krum_scores(distances, left, neighbors, least=1 - with_itself)
        best = left & (ranks(scores, left, cohort.client_ids) == 0)
        return jnp.where(best & (i < count), i, place)

    place = lax.fori_loop(0, n, select, jnp.full(n, n))
    return exclude(with_score(cohort, "place", place), place == n)


def krum_scores(
    distances: Array, mask: Array, num_neighbors: int | Array, least: int = 1
) -> Array:
    """Returns the sum f32 [n] of the distances to the nearest other clients.

    Args:
      distances: f32 [n, n], plain or squared.
      mask: bool [n], clients that count; the others get +inf.
      num_neighbors: i32 [], clipped to least..(number of other clients).
      least: see above.
    """
    n = len(mask)
    others = mask[None, :] & ~jnp.eye(n, dtype=bool)
    nearest = jnp.sort(jnp.where(others, distances, jnp.inf), axis=1)
    num_neighbors = jnp.clip(num_neighbors, least, jnp.maximum(mask.sum() - 1, 1))
    counted = jnp.arange(n)[None, :] < num_neighbors
    scores = jnp.where(counted, nearest, 0.0).sum(1)
    return jnp.where(mask, scores, jnp.inf)


ENTRY = Entry(
    krum,
    paper="Blanchard et al., NeurIPS 2017",
    oracle="the number of malicious clients, unless num_byzantine is given",
)
