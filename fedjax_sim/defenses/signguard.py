"""SignGuard: clusters of the shares of signs, and a filter of norms.

Xu, Huang, Song, Lan, "Byzantine-robust Federated Learning through Collaborative
Malicious Gradient Filtering", ICDCS 2022, Algorithm 2 (m).
"""

from typing import Literal

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
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, Fraction, NonNegative, Traced, checked
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.clipping import clip_factors, shorten
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics import order_statistics
from fedjax_sim.numerics.dbscan import dbscan
from fedjax_sim.numerics.distances import in_float32, row_lengths
from fedjax_sim.numerics.mean_shift import estimate_bandwidth, mean_shift

Clustering = Literal["dbscan", "meanshift"]
Variant = Literal["paper", "authors"]

# Added to the largest share of a column, which may be 0.
_SHARE = 1e-8


@checked("defense")
def signguard(
    *,
    variant: Variant = "paper",
    clustering: Clustering = "dbscan",
    lower_bound: Traced[NonNegative] = 0.1,
    upper_bound: Traced[NonNegative] = 3.0,
    window: Fraction = 0.1,
    radius: Traced[NonNegative] = 0.05,
    min_samples: Count = 3,
) -> Defense:
    """Returns the mean of clipped updates of ordinary length in the largest cluster.

    A client is kept whose norm lies strictly between `lower_bound` and `upper_bound`
    medians of all norms, and that belongs to the largest cluster (of equally large ones
    that of the smallest client id) by its shares of positive, zero and negative entries
    among random consecutive ones. Kept updates are clipped to the median norm. Scores:
    `norm`, `sign_cluster` f32 and i32 [n], -1 for noise. "(m)" above: the number in the
    paper is from memory.

    Args:
      variant: `authors` clips to the lower of the middle two norms, as their code.
      clustering: `dbscan` as FLPoison has it, which is deterministic and looks at all
        clients; `meanshift` as the paper and the authors' code, whose bandwidth here
        comes from all clients, not from 50 drawn ones.
      lower_bound, upper_bound: of the norms, in medians.
      window: share of the parameters whose signs are counted, from a start that is
        drawn in every round.
      radius: eps of DBSCAN.
      min_samples: of DBSCAN, at most the clients that count.

    Raises:
      InputError: an option outside its range.
    """
    if lower_bound_exceeds(lower_bound, upper_bound):
        raise InputError(
            f"config.defense.lower_bound = {lower_bound} must be below "
            f"config.defense.upper_bound = {upper_bound}"
        )

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        d, mask = cohort.updates.shape[1], included(cohort)
        size = max(int(window * d), 1)
        start = jax.random.randint(context.key, (), 0, max(d - size, 1))
        features = sign_features(cohort.updates, mask, start, size)
        # In the order of the ids: clusters grow from the first of them.
        order = jnp.argsort(cohort.client_ids)
        found = _cluster(features[order], mask[order])
        labels = jnp.zeros_like(found).at[order].set(found)
        cohort = with_score(cohort, "sign_cluster", labels)
        majority = jnp.zeros_like(mask).at[order].set(largest_cluster(found))
        lengths = row_lengths(cohort.updates)
        norms = in_float32(lengths)
        middle = order_statistics.median(norms[:, None], mask)[0]
        ordinary = (norms > lower_bound * middle) & (norms < upper_bound * middle)
        cohort = exclude(with_score(cohort, "norm", norms), ~(ordinary & majority))
        limit = middle
        if variant == "authors":
            limit = order_statistics.median(norms[:, None], mask, "lower")[0]
        return shorten(cohort, clip_factors(lengths, limit))

    def _cluster(features: Array, mask: Array) -> Array:
        if clustering == "meanshift":
            return mean_shift(features, mask, estimate_bandwidth(features, mask, 0.5))
        apart = jnp.linalg.norm(features[:, None, :] - features[None, :, :], axis=-1)
        # A cohort below the minimum would be all noise.
        needed = jnp.minimum(min_samples, mask.sum())
        return dbscan(apart, mask, radius, needed)

    return pipeline(stateless(judge))


def lower_bound_exceeds(low: float | Array, high: float | Array) -> bool:
    """Whether two numbers, not traced, leave nothing between them."""
    return isinstance(low, float) and isinstance(high, float) and low >= high


def sign_features(rows: Array, mask: Array, start: Array | int, size: int) -> Array:
    """Returns the shares f32 [n, 3] of +, 0 and -, each column by its largest.

    Args:
      rows: f32 [n, d].
      mask: bool [n], clients that count; the others have zeros.
      start: i32 [], first of the coordinates that are counted.
      size: how many.
    """
    signs = jnp.sign(lax.dynamic_slice_in_dim(rows, start, size, axis=1))
    counts = jnp.stack([(signs == sign).sum(1) for sign in (1, 0, -1)], axis=1)
    shares = jnp.where(mask[:, None], counts / size, 0.0)
    return shares / (shares.max(0, keepdims=True) + _SHARE)


def largest_cluster(labels: Array) -> Array:
    """Returns bool [n]: its members; a tie goes to the one that has the first row.

    Args:
      labels: i32 [n], -1 for noise.
    """
    same = (labels[:, None] == labels[None, :]) & (labels >= 0)[None, :]
    sizes = jnp.where(labels >= 0, same.sum(1), 0)
    return (sizes > 0) & (labels == labels[sizes.argmax()])


ENTRY = Entry(
    signguard,
    paper="Xu et al., ICDCS 2022",
    weighs=True,
)
