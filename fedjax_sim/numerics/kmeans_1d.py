"""Exact k-means of numbers, by dynamic programming.

On a line the clusters are runs of the sorted values, so the best partition into k
clusters is the best last run after the best partition of the rest into k - 1 (Wang and
Song, "Ckmeans.1d.dp", The R Journal 2011). No start has to be drawn.
"""

import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.core.compiled import compiled


@compiled("max_clusters")
def within_sums(values: Array, max_clusters: int) -> Array:
    """Returns the least within-cluster sums of squares f32 [max_clusters].

    Entry k - 1 belongs to k clusters.

    Args:
      values: f32 [n].
      max_clusters: at least 1.
    """
    costs = _run_costs(jnp.sort(values))
    best = costs[0]  # of the first j + 1 values in one cluster
    sums = [best[-1]]
    for _ in range(max_clusters - 1):
        best = _last_run(costs, best).min(0)
        sums.append(best[-1])
    return jnp.stack(sums)


@compiled()
def upper_cluster(values: Array) -> Array:
    """Returns bool [n]: the members of the upper of the best two clusters.

    Equal values are never separated, unless all are equal; then nobody is a member.
    """
    costs = _run_costs(jnp.sort(values))
    first = _last_run(costs, costs[0])[:, -1].argmin()
    lowest = jnp.sort(values)[first]
    return (values >= lowest) & (lowest > values.min())


def _last_run(costs: Array, best: Array) -> Array:
    """Returns f32 [n, n]: costs up to j with a last run that starts at i."""
    before = jnp.concatenate([jnp.zeros(1), best[:-1]])
    return costs + before[:, None]


def _run_costs(values: Array) -> Array:
    """Returns f32 [n, n]: sums of squares of the runs i..j, +inf for j < i.

    Values are added one after the other (Welford), because a difference of prefix sums
    would lose the small costs.
    """
    n = len(values)
    start = jnp.arange(n)

    def extend(carry: tuple[Array, Array], j: Array) -> tuple[tuple, Array]:
        mean, cost = carry
        inside = start <= j
        gap = values[j] - mean
        mean = jnp.where(inside, mean + gap / jnp.maximum(j - start + 1, 1), 0.0)
        cost = jnp.where(inside, cost + gap * (values[j] - mean), 0.0)
        return (mean, cost), jnp.where(inside, cost, jnp.inf)

    zeros = jnp.zeros(n)
    return lax.scan(extend, (zeros, zeros), start)[1].T
