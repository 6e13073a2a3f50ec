"""Malicious steps that stay near the global model, or within a part of it."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fedjax_sim.numerics.distances import row_norms

PyTree = Any
Ball = Literal["l2", "l_inf"]


def norm(tree: PyTree) -> Array:
    """Returns the Euclidean norm f32 [] of all leaves together."""
    return jnp.sqrt(optax.tree_utils.tree_vdot(tree, tree))


def project_l2(
    center: PyTree, radius: Array | float
) -> optax.GradientTransformationExtraArgs:
    """Shortens steps so that the parameters stay within `radius` of `center`.

    Goes last in a chain. Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor
    Federated Learning?", 2019, section 3 (projected gradient descent).
    """

    def update(updates, state, params, **extra):
        del extra
        offset = jax.tree.map(lambda p, u, c: p + u - c, params, updates, center)
        length = norm(offset)
        scale = jnp.where(length > radius, radius / length, 1.0)
        moved = lambda p, c, o: c + scale * o - p
        return jax.tree.map(moved, params, center, offset), state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def onto_ball(offsets: Array, radius: Array | float, ball: Ball) -> Array:
    """Returns offsets f32 [n, d], each brought into the ball around 0."""
    if ball == "l_inf":
        return jnp.clip(offsets, -radius, radius)
    norms = row_norms(offsets)[:, None]
    return jnp.where(norms > radius, offsets * (radius / norms), offsets)


def project(
    center: PyTree, radius: Array | float, ball: Ball, frequency: int
) -> optax.GradientTransformationExtraArgs:
    """Projects the parameters into a ball around `center` after every k-th step.

    Goes last in a chain. Its state i32 [] counts the steps.
    """
    within = project_l2(center, radius) if ball == "l2" else _clip(center, radius)

    def update(updates, count, params, **extra):
        del extra
        count = count + 1
        inside, _ = within.update(updates, (), params)
        now = count % frequency == 0
        return jax.tree.map(lambda a, b: jnp.where(now, a, b), inside, updates), count

    return optax.GradientTransformationExtraArgs(lambda params: jnp.int32(0), update)


def _clip(
    center: PyTree, radius: Array | float
) -> optax.GradientTransformationExtraArgs:
    """No parameter is farther than `radius` from that of `center`."""

    def update(updates, state, params, **extra):
        del extra
        moved = lambda p, u, c: c + jnp.clip(p + u - c, -radius, radius) - p
        return jax.tree.map(moved, params, updates, center), state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def only(chosen: Callable[[str], bool]) -> optax.GradientTransformationExtraArgs:
    """Zeroes the steps of all parameters but those of the chosen modules.

    Goes last in a chain, so that weight decay does not move the others either.

    Args:
      chosen: of the name of a top-level module, such as `conv1`.
    """

    def update(updates, state, params=None, **extra):
        del params, extra
        keep = lambda path, u: u if chosen(path[0].key) else jnp.zeros_like(u)
        return jax.tree_util.tree_map_with_path(keep, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)
