"""k-means of points, and how many clusters by the gap statistic.

Tibshirani, Walther, Hastie, "Estimating the number of clusters in a data set via the
gap statistic", 2001, in the form of BackFed's RFLBAT: sums of distances, not of
squares, and the mean of logarithms. The starts are fixed, not drawn: the point nearest
to the mean, then again and again the point farthest from those chosen.

Letters: `n` points, `k` coordinates, `K` clusters at most.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.core.compiled import compiled

MAX_CLUSTERS = 9  # K
REFERENCES = 5

_STEPS = 30

# Sums of distances below are taken for this; points lie in a square of side 1.
_SMALLEST = 1e-9


@compiled()
def cluster_by_gap(points: Array, mask: Array, draws: Array) -> Array:
    """Returns the clusters i32 [n], below 9; the number is that of the gap statistic.

    Args:
      points: f32 [n, k].
      mask: bool [n], points that count; the first of them come first in ties.
      draws: f32 [5, n, k], uniform in [0, 1): the reference sets.
    """
    low = jnp.where(mask[:, None], points, jnp.inf).min(0, keepdims=True)
    high = jnp.where(mask[:, None], points, -jnp.inf).max(0, keepdims=True)
    span = high - low
    scaled = (points - low) / jnp.where(span > 0, span, 1.0)
    scaled = jnp.where(mask[:, None], scaled, 0.0)
    # As many reference points as there are points.
    filled = jnp.arange(len(mask)) < mask.sum()
    sets = jnp.concatenate([scaled[None], draws])
    masks = jnp.concatenate([mask[None], jnp.broadcast_to(filled, draws.shape[:2])])
    numbers = jnp.arange(1, MAX_CLUSTERS + 1)
    per_number = jax.vmap(kmeans, (None, None, 0))
    labels, sums = jax.vmap(per_number, (0, 0, None))(sets, masks, numbers)
    logs = jnp.log(jnp.maximum(sums, _SMALLEST))
    gap = logs[1:].mean(0) - logs[0]
    deviation = logs[1:].std(0) * jnp.sqrt(1.0 + 1.0 / len(draws))
    fits = gap[:-1] >= gap[1:] - deviation[1:]
    best = jnp.where(fits.any(), fits.argmax(), MAX_CLUSTERS - 1)
    return labels[0, jnp.minimum(best, jnp.maximum(mask.sum() - 1, 0))]


@compiled()
def kmeans(points: Array, mask: Array, number: Array) -> tuple[Array, Array]:
    """Returns the clusters i32 [n] of points, and the sum of distances to the centres.

    Args:
      points: f32 [n, k].
      mask: bool [n], points that count.
      number: i32 [], of clusters, at most 9; equal points make fewer.
    """
    counted = mask[:, None]
    mean = jnp.where(counted, points, 0.0).sum(0) / jnp.maximum(mask.sum(), 1)
    used = jnp.arange(MAX_CLUSTERS) < number

    def apart(centres: Array) -> Array:
        return jnp.linalg.norm(points[:, None, :] - centres[None, :, :], axis=-1)

    def nearest(centres: Array, chosen: Array) -> Array:
        return jnp.where(chosen[None, :], apart(centres), jnp.inf)

    def start(i: Array, centres: Array) -> Array:
        to_chosen = nearest(centres, jnp.arange(MAX_CLUSTERS) < i).min(1)
        return centres.at[i].set(points[jnp.where(mask, to_chosen, -1.0).argmax()])

    to_mean = jnp.where(mask, jnp.linalg.norm(points - mean[None], axis=1), jnp.inf)
    first = points[to_mean.argmin()]
    centres = jnp.broadcast_to(first, (MAX_CLUSTERS, points.shape[1]))
    centres = lax.fori_loop(1, MAX_CLUSTERS, start, centres)

    def move(i: Array, centres: Array) -> Array:
        del i
        labels = nearest(centres, used).argmin(1)
        own = (labels[:, None] == jnp.arange(MAX_CLUSTERS)[None, :]) & counted
        sizes = own.sum(0)[:, None]
        means = own.T.astype(points.dtype) @ points / jnp.maximum(sizes, 1)
        return jnp.where(sizes > 0, means, centres)

    centres = lax.fori_loop(0, _STEPS, move, centres)
    to_centres = nearest(centres, used)
    return to_centres.argmin(1), jnp.where(mask, to_centres.min(1), 0.0).sum()
