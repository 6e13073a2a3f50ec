"""RFLBAT: clusters of the updates in the plane of their principal components.

Wang, Zhai, Zhan, Wang, Lin, "RFLBAT: A Robust Federated Learning Algorithm against
Backdoor Attack", 2022 (arXiv 2201.03772), Algorithm 1 (m).
"""

import jax
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
from fedjax_sim.core.compiled import compiled
from fedjax_sim.core.options import NonNegative, Traced, checked
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics import order_statistics
from fedjax_sim.numerics.distances import LARGEST, finite, row_lengths, unit_rows
from fedjax_sim.numerics.gram import gram, row_units
from fedjax_sim.numerics.kmeans_gap import (
    MAX_CLUSTERS,
    REFERENCES,
    cluster_by_gap,
)


@checked("defense")
def rflbat(
    *, eps1: Traced[NonNegative] = 10.0, eps2: Traced[NonNegative] = 4.0
) -> Defense:
    """Returns the mean of the most diverse cluster of updates, without outliers.

    Updates are projected on their two leading principal components. Who is far from the
    others there is left out; the rest is clustered by k-means, the number of clusters
    by the gap statistic; the cluster is kept whose members' mean cosine similarities
    have the least median (one member alone is no cluster); and again who is far from
    its others is left out. Scores: `distance_sum` f32 [n], to all others in the plane,
    and `plane_cluster` i32 [n], -1 for who is left out before. "(m)" above: the number
    in the paper is from memory.

    Args:
      eps1: a client stays whose sum of distances is at most so many medians of them.
      eps2: the same within the cluster.

    Raises:
      InputError: an option outside its range.
    """

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        order, mask = jnp.argsort(cohort.client_ids), included(cohort)
        _, points, unit = principal_plane(cohort.updates, mask)
        sums = distance_sums(points, mask)
        cohort = with_score(cohort, "distance_sum", finite(sums * unit))
        kept = within(sums, mask, eps1)
        # A number for each place, so that a smaller cohort draws the same.
        draw = lambda i: jax.random.uniform(
            jax.random.fold_in(context.key, i), (REFERENCES, 2)
        )
        draws = jnp.moveaxis(jax.vmap(draw)(jnp.arange(len(mask))), 0, 1)
        found = cluster_by_gap(points[order], kept[order], draws)
        labels = jnp.where(kept, jnp.zeros_like(found).at[order].set(found), -1)
        cohort = with_score(cohort, "plane_cluster", labels)
        return exclude(cohort, ~most_diverse(cohort, points, labels, eps2))

    return pipeline(stateless(judge))


@compiled()
def principal_plane(rows: Array, mask: Array) -> tuple[Array, Array, Array]:
    """Returns the two leading components f32 [2, d], and the rows there, f32 [n, 2].

    The latter are in units of a usual row, the third result, f32 []. The components
    are those of the centred rows; the rows are not centred. One client
    far out takes the first component, and a Gram matrix in float32 then holds nothing
    of the second: so the first is taken out of the rows before the second is sought.
    A component without any variance is 0.

    Args:
      rows: f32 [n, d].
      mask: bool [n], rows that count.
    """
    unit = jnp.where(mask & rows.any(1), row_units(rows), 0.0).max()
    unit = jnp.where(unit > 0, unit, 1.0)
    shares = mask / jnp.maximum(mask.sum(), 1)
    scaled = jnp.where(mask[:, None], rows / unit, 0.0)
    centred = jnp.where(mask[:, None], scaled - (shares @ scaled)[None], 0.0)
    first = _leading(centred)
    along = jnp.matmul(centred, first, precision=lax.Precision.HIGHEST)
    second = _leading(centred - along[:, None] * first[None])
    second = _unit(second - (second @ first) * first)
    components = jnp.stack([first, second])
    # Each row in its own unit: beside a huge one the others are 0 in that of all.
    units = row_units(rows)
    points = jnp.matmul(
        rows / units[:, None], components.T, precision=lax.Precision.HIGHEST
    )
    middle = jnp.sort(jnp.where(mask, units, jnp.inf))
    middle = middle[jnp.maximum(mask.sum() - 1, 0) // 2]
    middle = jnp.where(mask.any(), middle, 1.0)
    ratio = units / middle
    points = jnp.clip(points * ratio[:, None], -LARGEST / 8, LARGEST / 8)
    return components, jnp.where(mask[:, None], points, 0.0), middle


def _leading(rows: Array) -> Array:
    """The direction f32 [d] of the largest variance of centred rows f32 [n, d]."""
    _, vectors = jnp.linalg.eigh(gram(rows))
    direction = vectors[:, -1] @ rows
    # Once through the rows: of what rounding left in the matrix nothing remains.
    return _unit((rows @ _unit(direction)) @ rows)


def _unit(vector: Array) -> Array:
    lengths = row_lengths(vector[None])
    norm = lengths.norms[0]
    scaled = vector / lengths.units[0]
    return jnp.where(norm > 0, scaled / jnp.where(norm > 0, norm, 1.0), 0.0)


def distance_sums(points: Array, mask: Array) -> Array:
    """Returns the sums f32 [n] of the distances to the points of `mask`, 0 elsewhere.

    Args:
      points: f32 [n, 2].
      mask: bool [n].
    """
    apart = points[:, None, :] - points[None, :, :]
    apart = jnp.hypot(apart[..., 0], apart[..., 1])
    sums = jnp.where(mask[None, :], apart / len(mask), 0.0).sum(1) * len(mask)
    return jnp.where(mask, finite(sums), 0.0)


def within(sums: Array, mask: Array, factor: float | Array) -> Array:
    """Returns bool [n]: whose sum is at most `factor` medians of those of `mask`."""
    middle = order_statistics.median(sums[:, None], mask)[0]
    return mask & (sums / jnp.maximum(factor, 1.0) <= middle * jnp.minimum(factor, 1.0))


def cluster_scores(similarities: Array, labels: Array, number: int) -> Array:
    """Returns f32 [number]: medians of the members' mean similarities within a cluster.

    Args:
      similarities: f32 [n, n], cosines.
      labels: i32 [n], clusters from 0 to number - 1, -1 for none; a cluster of at most
        one member has +inf.
    """

    def score(label: Array) -> Array:
        member = labels == label
        count = member.sum()
        means = jnp.where(member[None, :], similarities, 0.0).sum(1)
        means = means / jnp.maximum(count, 1)
        middle = order_statistics.median(means[:, None], member)[0]
        return jnp.where(count > 1, middle, jnp.inf)

    return jax.vmap(score)(jnp.arange(number))


def most_diverse(
    cohort: Cohort, points: Array, labels: Array, eps2: float | Array
) -> Array:
    """Returns bool [n]: the cluster of the least score, without its own outliers.

    Args:
      cohort: of n clients.
      points: f32 [n, 2], its updates in the plane.
      labels: i32 [n], clusters numbered from 0, -1 for none.
      eps2: see `rflbat`.
    """
    similarities = gram(unit_rows(cohort.updates))
    scores = cluster_scores(similarities, labels, MAX_CLUSTERS)
    # Where all are alone, the cluster of the smallest id.
    first = jnp.argmin(jnp.where(labels >= 0, cohort.client_ids, jnp.inf))
    best = jnp.where(jnp.isfinite(scores).any(), scores.argmin(), labels[first])
    member = (labels == best) & (labels >= 0)
    return within(distance_sums(points, member), member, eps2)


ENTRY = Entry(
    rflbat,
    paper="Wang et al. 2022, arXiv 2201.03772",
    weighs=True,
)
