"""MeanShift with a flat kernel for a static number of points.

Comaniciu, Meer, "Mean Shift: A Robust Approach Toward Feature Space Analysis", IEEE
TPAMI 2002, as scikit-learn 1.9 computes it with `bin_seeding` and no `cluster_all`.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.core.compiled import compiled

# Steps of a seed, at most, and the share of the bandwidth below which it has arrived.
_STEPS = 300
_ARRIVED = 1e-3


@compiled()
def estimate_bandwidth(points: Array, mask: Array, quantile: float) -> Array:
    """Returns f32 []: the mean distance to the farthest of each point's nearest share.

    Args:
      points: f32 [n, k].
      mask: bool [n], points that count.
      quantile: the share; each point is among its own nearest.
    """
    count = jnp.maximum(jnp.floor(mask.sum() * quantile).astype(jnp.int32), 1)
    apart = jnp.where(mask[None, :], _distances(points, points), jnp.inf)
    farthest = jnp.sort(apart, axis=1)[:, count - 1]
    return jnp.where(mask, farthest, 0.0).sum() / jnp.maximum(mask.sum(), 1)


@compiled()
def mean_shift(points: Array, mask: Array, bandwidth: Array) -> Array:
    """Returns the clusters i32 [n], numbered by their seeds; -1 is noise.

    With a bandwidth of 0 all points are one cluster.

    Args:
      points: f32 [n, k].
      mask: bool [n], points that count; the others are noise and change nothing.
      bandwidth: f32 [], of the kernel.
    """
    n = len(mask)
    width = jnp.where(bandwidth > 0, bandwidth, 1.0)
    bins = jnp.round(points / width)
    same = (bins[:, None] == bins[None, :]).all(-1) & mask[None, :] & mask[:, None]
    first = mask & (same.argmax(1) == jnp.arange(n))
    # With as many bins as points the points themselves are the seeds.
    seeds = jnp.where(first.sum() == mask.sum(), points, bins * width)

    def climb(seed: Array) -> tuple[Array, Array]:
        def within(centre: Array) -> Array:
            return mask & (jnp.linalg.norm(points - centre[None], axis=1) <= width)

        def step(carry: tuple) -> tuple:
            centre, i, _ = carry
            near = within(centre)
            mean = jnp.where(near[:, None], points, 0.0).sum(0)
            mean = mean / jnp.maximum(near.sum(), 1)
            moved = jnp.where(near.any(), jnp.linalg.norm(mean - centre), 0.0)
            centre = jnp.where(near.any(), mean, centre)
            return centre, i + 1, moved <= _ARRIVED * width

        centre, *_ = lax.while_loop(
            lambda carry: ~carry[2] & (carry[1] < _STEPS),
            step,
            (seed, jnp.int32(0), jnp.bool_(False)),
        )
        return centre, within(centre).sum()

    centres, counts = jax.vmap(climb)(seeds)
    counts = jnp.where(first, counts, 0)
    # The centre with most points first, of equal ones that of the larger coordinates.
    keys = tuple(-centres[:, i] for i in reversed(range(points.shape[1])))
    order = jnp.lexsort((*keys, -counts))
    apart = _distances(centres, centres)

    def choose(i: Array, kept: Array) -> Array:
        own = order[i]
        covered = (kept & (apart[own] <= width)).any()
        return kept.at[own].set((counts[own] > 0) & ~covered)

    kept = lax.fori_loop(0, n, choose, jnp.zeros(n, bool))
    to_centres = jnp.where(kept[None, :], _distances(points, centres), jnp.inf)
    nearest = to_centres[:, order].argmin(1)
    labels = jnp.where(to_centres.min(1) <= width, order[nearest], -1)
    labels = jnp.where(bandwidth > 0, labels, 0)
    return jnp.where(mask, labels, -1)


def _distances(a: Array, b: Array) -> Array:
    return jnp.linalg.norm(a[:, None, :] - b[None, :, :], axis=-1)
