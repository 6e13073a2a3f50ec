"""DBSCAN for a static number of points.

Ester, Kriegel, Sander, Xu, "A Density-Based Algorithm for Discovering Clusters in Large
Spatial Databases with Noise", KDD 1996; labels as scikit-learn gives them.
"""

import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.core.compiled import compiled


@compiled()
def dbscan(
    distances: Array, mask: Array, radius: float | Array, min_samples: int | Array
) -> Array:
    """Returns clusters i32 [n], by the first row of a core point in each; -1 is noise.

    Core points have `min_samples` points, themselves among them, within the radius;
    those within the radius of one another are one cluster, and other points belong to
    the first cluster that reaches them.

    Args:
      distances: f32 [n, n], symmetric.
      mask: bool [n], points that count; the others are noise and change nothing.
      radius: of the neighbourhood, included.
      min_samples: see above.
    """
    n = len(mask)
    near = (distances <= radius) & mask[:, None] & mask[None, :]
    core = near.sum(1) >= min_samples
    links = near & core[:, None] & core[None, :]

    def spread(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        labels, _ = carry
        reached = jnp.where(links, labels[None, :], n).min(1)
        new = jnp.minimum(labels, reached)
        return new, (new != labels).any()

    own = jnp.where(core, jnp.arange(n), n)
    labels, _ = lax.while_loop(lambda carry: carry[1], spread, (own, jnp.bool_(True)))
    reached = jnp.where(near & core[None, :], labels[None, :], n).min(1)
    return jnp.where(reached < n, reached, -1)
