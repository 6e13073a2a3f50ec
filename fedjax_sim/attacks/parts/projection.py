"""Malicious steps that stay near the global model, or within a part of it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

PyTree = Any


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
