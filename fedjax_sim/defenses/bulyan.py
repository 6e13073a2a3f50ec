"""Bulyan: Krum again and again, then a mean around the median.

El Mhamdi, Guerraoui, Rouault, "The Hidden Vulnerability of Distributed Learning in
Byzantium", ICML 2018, section 4.
"""

import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim import order_statistics
from fedjax_sim.defenses.base import (
    Cohort,
    Defense,
    FederationSpec,
    RoundContext,
    Stage,
    coordinatewise,
    exclude,
    included,
    pipeline,
    with_score,
)
from fedjax_sim.defenses.building import byzantine_count, stateless, told
from fedjax_sim.defenses.checks import check_quorum, check_range
from fedjax_sim.defenses.multikrum import krum_scores, ranks
from fedjax_sim.distances import squared_distances


def bulyan(*, num_byzantine: int | None = None) -> Defense:
    """Returns Bulyan with theta = n - 2f selected and beta = theta - 2f averaged.

    Krum selects theta clients one after the other, each time among those that are
    left (score `place` i32 [n], from 0, or n). In each coordinate the beta selected
    values nearest to their median are averaged. n are the clients that count; where
    they are too few for f, at least one client and one value are taken.

    Args:
      num_byzantine: f; by default the malicious clients to expect in a cohort (an
        oracle: a real server has to guess it). With f < 3 the last selections may tie
        exactly and go by client id.

    Raises:
      InputError: by `init`, for a cohort of fewer than 4f + 3 clients.
    """

    def resolve(spec: FederationSpec) -> int:
        check_range("num_byzantine", num_byzantine, 0, spec.cohort_size)
        f = byzantine_count(spec, num_byzantine)
        check_quorum(spec, f, 4, 3)
        return f

    def rule(f: Array) -> Defense:
        def average(rows: Array, mask: Array) -> Array:
            count = mask.sum() - 2 * f
            return order_statistics.mean_around_median(rows, mask, count)

        return pipeline(iterated_krum(f), reduce=coordinatewise(average))

    return told(resolve, rule)


def iterated_krum(num_byzantine: Array) -> Stage:
    """Returns the stage that keeps the n - 2f clients that Krum selects in turn."""

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        del context
        distances = squared_distances(cohort.updates)
        mask = included(cohort)
        n = len(mask)
        count = jnp.maximum(mask.sum() - 2 * num_byzantine, 1)

        def select(i: Array, place: Array) -> Array:
            left = mask & (place == n)
            neighbors = left.sum() - num_byzantine - 2
            scores = krum_scores(distances, left, neighbors)
            best = left & (ranks(scores, left, cohort.client_ids) == 0)
            return jnp.where(best & (i < count), i, place)

        place = lax.fori_loop(0, n, select, jnp.full(n, n))
        return exclude(with_score(cohort, "place", place), place == n)

    return stateless(judge)
