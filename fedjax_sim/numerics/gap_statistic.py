"""The gap statistic: into how many clusters numbers fall.

Tibshirani, Walther, Hastie, "Estimating the number of clusters in a data set via the
gap statistic", Journal of the Royal Statistical Society B, 2001.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.core.compiled import compiled
from fedjax_sim.numerics.kmeans_1d import within_sums

MAX_CLUSTERS = 7


class Gap(NamedTuple):
    """Entry k - 1 belongs to k clusters; k is 0 where no number of clusters fits."""

    sums: Array  # f32 [7], within-cluster sums of squares
    gap: Array  # f32 [7]
    deviation: Array  # f32 [7], s_k
    num_clusters: Array  # i32 [], smallest k with gap(k) >= gap(k + 1) - s(k + 1)


@compiled()
def gap_statistic(values: Array, references: Array) -> Gap:
    """Returns the statistic of `values`, brought to [0, 1].

    Args:
      values: f32 [n].
      references: f32 [r, n], drawn uniformly from [0, 1].
    """
    span = values.max() - values.min()
    scaled = (values - values.min()) / jnp.where(span > 0, span, 1.0)
    sums = within_sums(scaled, MAX_CLUSTERS)
    drawn = jax.vmap(lambda row: within_sums(row, MAX_CLUSTERS))(references)
    drawn = _floored(drawn)
    gap = jnp.log(drawn.mean(0)) - jnp.log(_floored(sums))
    deviation = jnp.sqrt(1.0 + 1.0 / len(references)) * jnp.log(drawn).std(0)
    fits = gap[:-1] >= gap[1:] - deviation[1:]
    num_clusters = jnp.where(fits.any(), fits.argmax() + 1, 0)
    return Gap(sums, gap, deviation, num_clusters)


def _floored(sums: Array) -> Array:
    # Repeated values fall into clusters without any spread.
    return jnp.maximum(sums, 1e-12)
