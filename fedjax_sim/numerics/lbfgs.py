"""How a gradient changes with the model, from past changes of both (L-BFGS).

Byrd, Nocedal, Schnabel, "Representations of quasi-Newton matrices and their use in
limited memory methods", Mathematical Programming 1994, eq. 3.5.
"""

import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.core.compiled import compiled
from fedjax_sim.numerics.gram import gram


@compiled()
def hessian_vector_product(
    steps: Array, changes: Array, count: Array, vector: Array
) -> Array:
    """Returns H v (f32 [d]) for the L-BFGS estimate H of the Hessian.

    NaN or Inf where H is undefined, such as without a pair.

    Args:
      steps: f32 [m, d], changes of the model, the oldest first.
      changes: f32 [m, d], changes of the gradient in the same steps.
      count: i32 [], how many of the *last* rows are filled; the others are zeros.
      vector: f32 [d].
    """
    m = len(steps)
    products = gram(jnp.concatenate([steps, changes, vector[None]]))
    steps_steps, steps_changes = products[:m, :m], products[:m, m : 2 * m]
    scale = steps_changes[-1, -1] / steps_steps[-1, -1]
    lower = jnp.tril(steps_changes, -1)
    matrix = jnp.block(
        [
            [scale * steps_steps, lower],
            [lower.T, -jnp.diag(jnp.diagonal(steps_changes))],
        ]
    )
    filled = jnp.tile(jnp.arange(m) >= m - count, 2)
    matrix = jnp.where(filled[:, None] & filled[None, :], matrix, jnp.eye(2 * m))
    right = jnp.where(filled, products[:-1, -1], 0.0)
    right = right.at[:m].multiply(scale)
    solution = _solve(matrix, right)
    combined = jnp.concatenate([scale * steps, changes])
    correction = jnp.matmul(solution, combined, precision=lax.Precision.HIGHEST)
    return scale * vector - correction


def _solve(matrix: Array, right: Array) -> Array:
    # Steps differ in length by orders of magnitude: rows and columns are brought to
    # one scale, and one step of refinement takes off most of the rounding error.
    size = jnp.sqrt(jnp.abs(matrix).max(1))
    size = jnp.where(size > 0, size, 1.0)
    matrix, right = matrix / size[:, None] / size[None, :], right / size
    solution = jnp.linalg.solve(matrix, right)
    error = right - jnp.matmul(matrix, solution, precision=lax.Precision.HIGHEST)
    return (solution + jnp.linalg.solve(matrix, error)) / size
